//! How signed packets are received, for `knockctl status`.

use crate::control::counters::Counters;
use crate::control::protocol::SignedPackets;
use crate::ctl::table::count;

/// Why none is accepted, where that is so.
pub(in crate::ctl) fn problem(signed: &SignedPackets) -> Option<String> {
    signed.problem.as_ref().map(|problem| format!("no signed packet is accepted: {problem}"))
}

/// Ports, keys, and what became of packets.
pub(in crate::ctl) fn in_words(signed: &SignedPackets, counters: &Counters) -> String {
    let ports = signed.ports.iter().map(|port| format!("{port}/udp")).collect::<Vec<_>>().join(", ");
    let mut text = format!("{} at {ports}", count(signed.keys, "key"));
    for (number, what) in [
        (counters.signed_accepted, "accepted"),
        (counters.signed_refused, "refused"),
        (counters.signed_wrong_signature, "with a wrong signature"),
        (counters.signed_over_budget, "too many"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_has_ports_keys_and_what_is_not_zero() {
        let mut signed = SignedPackets { ports: vec![62_201, 443], keys: 1, remembered: 0, problem: None };
        assert_eq!(in_words(&signed, &Counters::default()), "1 key at 62201/udp, 443/udp");
        let counters = Counters { signed_accepted: 3, signed_over_budget: 1, ..Counters::default() };
        assert_eq!(in_words(&signed, &counters), "1 key at 62201/udp, 443/udp, 3 accepted, 1 too many");
        assert_eq!(problem(&signed), None);
        signed.problem = Some("the disk is full".to_owned());
        assert_eq!(problem(&signed).as_deref(), Some("no signed packet is accepted: the disk is full"));
    }
}
