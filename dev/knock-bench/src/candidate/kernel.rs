//! The knock in the kernel: an nftables ruleset in which each knock moves the source to the next set.

use crate::candidate::{Candidate, GUARDED, Knocks, SEQUENCE};
use crate::error::Result;

/// As many sources in progress as our daemon remembers.
const SOURCES: u32 = 65_536;

impl Candidate {
    /// The knock in the kernel.
    pub(crate) fn kernel() -> Result<Candidate> {
        let mut candidate = Candidate::new(crate::KERNEL)?;
        let [first, second, third] = SEQUENCE;
        candidate.network.server.namespace.nft(&format!(
            "table inet knock {{
                set first {{ type ipv4_addr; size {SOURCES}; flags dynamic, timeout; timeout 5s; }}
                set second {{ type ipv4_addr; size {SOURCES}; flags dynamic, timeout; timeout 5s; }}
                set open {{ type ipv4_addr; size {SOURCES}; flags dynamic, timeout; timeout 1h; }}
                chain knock1 {{ add @first {{ ip saddr }}; drop; }}
                chain knock2 {{ ip saddr @first add @second {{ ip saddr }}; drop; }}
                chain knock3 {{ ip saddr @second add @open {{ ip saddr }}; drop; }}
                chain gate {{ ip saddr @open accept; drop; }}
                chain input {{
                    type filter hook input priority filter;
                    tcp flags & (syn | ack) == syn tcp dport vmap {{
                        {first} : jump knock1, {second} : jump knock2, {third} : jump knock3, {GUARDED} : jump gate
                    }};
                }}
            }}"
        ))?;
        candidate.knocks = Knocks::Sequence(SEQUENCE);
        Ok(candidate)
    }
}
