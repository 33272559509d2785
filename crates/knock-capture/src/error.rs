//! The errors of packet sockets and of the watch on network interfaces, with their remedies.

use std::io;

/// Why the packet socket or the link follower failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The packet socket could not be made.
    #[error("cannot open a packet socket (AF_PACKET): {source}; {}", permission_hint(source))]
    OpenPacketSocket {
        /// The error of socket(2).
        source: io::Error,
    },
    /// An option of the packet socket could not be set or read.
    #[error("cannot use {option} on the packet socket: {source}")]
    SocketOption {
        /// The option's name in packet(7) or socket(7).
        option: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel did not take the filter program.
    #[error(
        "the kernel refuses the packet filter of {instructions} instructions: {source}; \
         if memory is what it lacks, raise the sysctl net.core.optmem_max"
    )]
    AttachFilter {
        /// How long the program was.
        instructions: usize,
        /// The error of setsockopt(2).
        source: io::Error,
    },
    /// The packet socket could not be bound to an interface that is there.
    #[error("cannot bind the packet socket to the interface with index {index}: {source}")]
    Bind {
        /// The interface's index; 0 is all of them.
        index: u32,
        /// The error of bind(2), or of what pnet does after it.
        source: io::Error,
    },
    /// There is no interface of this index: it was never there, or it is gone. Bind again when it has appeared.
    #[error("there is no interface with index {index}; bind again when it has appeared")]
    NoSuchLink {
        /// The index that was asked for.
        index: u32,
    },
    /// The interface that the packet socket is bound to went down. Reported once; the socket receives again by
    /// itself when the interface is up.
    #[error("the captured interface is down; capture continues when it is up again")]
    LinkDown,
    /// The interface that the packet socket was bound to is deleted. Reported once; bind again when there is a new one.
    #[error("the captured interface was deleted; bind again when it exists again")]
    LinkGone,
    /// Reading from the packet socket failed.
    #[error("cannot read from the packet socket: {source}")]
    Receive {
        /// The socket's error.
        source: io::Error,
    },
    /// The rtnetlink socket of the link follower failed.
    #[error("cannot watch the network interfaces: {attempted}: {source}")]
    Netlink {
        /// What was tried.
        attempted: &'static str,
        /// The error of the system call, or the one in the kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether the kernel refused for lack of a capability.
    pub fn is_permission(&self) -> bool {
        match self {
            Error::OpenPacketSocket { source }
            | Error::SocketOption { source, .. }
            | Error::AttachFilter { source, .. }
            | Error::Bind { source, .. }
            | Error::Receive { source }
            | Error::Netlink { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Error::NoSuchLink { .. } | Error::LinkDown | Error::LinkGone => false,
        }
    }

    pub(crate) fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::AttachFilter { source, .. } if source.raw_os_error() == Some(libc::ENOMEM))
    }

    /// Whether this is about the state of an interface: not a failure, wait for [`crate::Links`] to report the next
    /// change.
    pub fn is_link_state(&self) -> bool {
        matches!(self, Error::NoSuchLink { .. } | Error::LinkDown | Error::LinkGone)
    }
}

fn permission_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it needs CAP_NET_RAW: run as root or give the service that capability",
        Some(libc::EAFNOSUPPORT) => {
            "the kernel lacks CONFIG_PACKET, or the service's RestrictAddressFamilies= lacks AF_PACKET"
        }
        _ => "see socket(2)",
    }
}
