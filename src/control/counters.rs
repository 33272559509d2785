//! What the daemon counts. Each counter is defined here once: from it follow its field in the status, its metric and its
//! help text. `docs/control-protocol.md` explains it.

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($name:ident: $help:literal,)*) => {
        /// What happened since the start of the daemon.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub(crate) struct Counters {
            $(#[doc = $help] pub(crate) $name: u64,)*
        }

        impl Counters {
            /// The name, the meaning and the value of each.
            pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $help, self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    kernel_received: "Packets that the kernel put into the receive queues.",
    kernel_dropped: "Packets that the kernel dropped because a receive queue was full.",
    turned_away: "Packets of strangers that were turned away at the gate.",
    packets: "Packets that were looked at.",
    malformed: "Packets that were malformed.",
    ignored: "Packets that were not knocks.",
    knocks: "Packets that were knocks.",
    retransmissions: "Knocks that were retransmissions.",
    tripwires: "Packets that touched a tripwire.",
    evicted: "Sources that were forgotten to make room for another.",
    completed: "Sequences that sources completed.",
    in_cooldown: "Sequences that sources completed again in the cooldown of the rule.",
    armed: "Sources that the kernel was to open to at their last knock.",
    armed_refused: "Sources that the kernel did not wait for, because they sent something else meanwhile.",
    armed_confirmed: "Completions of sources that the kernel waited for.",
    armed_unconfirmed: "Sources that the kernel opened to and the daemon did not.",
    signed_received: "Datagrams of the length of a signed packet, to a port for them.",
    signed_foreign: "Datagrams of that length that no known key and cover has sealed.",
    signed_over_budget: "Signed packets that were not looked at, because too many came.",
    signed_wrong_signature: "Signed packets whose signature was wrong.",
    signed_refused: "Signed packets of a user that were refused.",
    signed_accepted: "Signed packets that were accepted.",
    granted: "Grants that began or were extended.",
    grants_failed: "Grants that could not be made.",
    revoked: "Grants that were revoked before they expired.",
    restored: "Repairs of the managed table or a user set.",
    strays: "Stray elements that were deleted.",
    reloads: "Reloads of the configuration.",
    commands_started: "Commands that were started.",
    commands_succeeded: "Commands that ended with status 0.",
    commands_failed: "Commands that failed.",
    commands_timed_out: "Commands that were ended at their time limit.",
    commands_dropped: "Commands that were not run because the queue was full.",
    commands_merged: "Commands that were not run because an equal one was waiting for the same address.",
    events_left_out: "Lines about knocks and commands that were left out by the rate limit.",
    log_lines_left_out: "Lines that were not written because nobody read the log.",
}
