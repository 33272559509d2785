//! The kernel filter: a classic BPF program that lets nothing but possible knocks through.
//!
//! The program is written for a cooked packet socket, where a packet starts at its IP header whatever the link
//! (packet(7), `SOCK_DGRAM`), and uses the kernel's ancillary loads (`linux/filter.h`, `SKF_AD_*`).

mod assembler;
mod compile;
mod ports;

pub use assembler::Instruction;
pub(crate) use assembler::op;

use std::ops::RangeInclusive;

use knock_proto::{Knock, TcpFlags};

/// The longest program that the kernel takes (`BPF_MAXINSNS` in `linux/bpf_common.h`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// How many bytes of a possible knock are kept, counted from its transport header: the longest TCP header.
pub const TRANSPORT_BYTES: u32 = 60;

/// Which packets are of interest: the union of the classes, and datagrams that are kept whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterSpec {
    /// One class for each set of TCP flags.
    pub classes: Vec<FilterClass>,
    /// The indices of the interfaces on which the packets arrive; `None`: every interface.
    pub interfaces: Option<Vec<u32>>,
    /// The datagrams whose payload is wanted.
    pub whole: Option<WholeDatagrams>,
}

/// UDP datagrams that are not cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeDatagrams {
    /// The destination ports, in any order; repeats do no harm.
    pub ports: Vec<u16>,
    /// The length in the UDP header: that of the payload and 8. A datagram of another length is accepted as a knock or not at
    /// all.
    pub lengths: RangeInclusive<u16>,
}

/// Ports (knocks and tripwires) and the TCP flags with which they are of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterClass {
    /// The flags that a TCP segment must and must not have. They say nothing about UDP.
    pub tcp_flags: TcpFlags,
    /// The destination ports, in any order; repeats do no harm.
    pub ports: Vec<Knock>,
}

/// A filter program, ready to be attached.
///
/// It accepts a packet if and only if
/// - it came for this host (`PACKET_HOST`: not our own, not another station's frame that a promiscuous interface saw)
///   and bears no VLAN tag other than the priority tag, because the kernel shows a tagged packet again, without its
///   tag, on the VLAN's own interface;
/// - it is IPv4 or IPv6 by protocol and version, and is as long as its header says;
/// - it is no later fragment, and its transport is TCP or UDP, behind up to four IPv6 extension headers (hop-by-hop,
///   destination options, routing, fragment); a longer chain of those is handed over unseen;
/// - it arrives on one of the interfaces, where the specification names some;
/// - its destination port is in the set, and a TCP segment has the flags of the port's class.
///
/// An accepted packet is cut [`TRANSPORT_BYTES`] after the start of its transport header, so the length in its IP
/// header may say more than is there. [`WholeDatagrams`] are not cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    spec: FilterSpec,
    instructions: Vec<Instruction>,
    coarse: bool,
}

impl Program {
    /// Builds the program for `spec`, exact where [`INSTRUCTIONS_MAX`] instructions suffice, else coarse.
    pub fn new(spec: &FilterSpec) -> Program {
        let exact = Program { spec: spec.clone(), instructions: compile::exact(spec), coarse: false };
        if exact.instructions.len() <= INSTRUCTIONS_MAX { exact } else { exact.to_coarse() }
    }

    /// The short program for the same packets, [coarse](Program::coarse): it takes all ports from the lowest to the
    /// highest, and the TCP flags that all classes demand. It has less than 200 instructions, and
    /// one or two more for each interface.
    pub fn to_coarse(&self) -> Program {
        Program { spec: self.spec.clone(), instructions: compile::coarse(&self.spec), coarse: true }
    }

    /// The program for the same packets, where they arrive on one of these interfaces.
    pub fn on(&self, interfaces: Vec<u32>) -> Program {
        Program::new(&FilterSpec { interfaces: Some(interfaces), ..self.spec.clone() })
    }

    /// Whether it accepts more than the specification says, because the exact program is too long. It never
    /// accepts less; the cost is a wake-up for packets that are no knock.
    pub fn coarse(&self) -> bool {
        self.coarse
    }

    /// The instructions, first to last.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

impl Default for Program {
    /// The program that lets nothing pass.
    fn default() -> Program {
        Program { spec: FilterSpec::default(), instructions: compile::reject_all(), coarse: false }
    }
}
