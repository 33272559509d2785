//! What packets of sources mean, for people: `knockctl watch` and `knockctl explain`.

use std::net::IpAddr;

use anstyle::Style;
use knock_config::printable;

use super::local_time::local;
use super::table::{BAD, DIM, GOOD, duration};
use crate::control::protocol::{Explained, Step, What};

/// The line of a step.
pub(super) fn line(step: &Step) -> String {
    let rule = step.rule.as_deref().unwrap_or("-");
    let (style, text) = meaning(step);
    let (time, address) = (clock(step.time), step.address);
    format!("{time}  {address:<15}  {rule:<10}  {style}{}{style:#}\n", printable(&text))
}

/// What is printed where steps were left out.
pub(super) fn left_out(packets: u64) -> String {
    format!(
        "{DIM}              {packets} more packets came too fast to be shown; name an address to see all of its own{DIM:#}\n"
    )
}

/// The steps of a source, and what they say to who looks for a mistake.
pub(super) fn explained(explained: &Explained) -> String {
    let mut text: String = explained.steps.iter().map(line).collect();
    let address = explained.address;
    let remembered = match explained.since_seconds {
        Some(seconds) => format!("in the {} that knockd remembers", duration(seconds)),
        None => "since the start of knockd or the last change of the rules".to_owned(),
    };
    if text.is_empty() {
        text = format!("no packet from {address} to a knock port came {remembered}\n");
    }
    if let Some(advice) = explained.steps.last().map_or_else(|| Some(nothing_came(address)), advice) {
        text.push_str(&format!("{advice}\n"));
    }
    if explained.left_out > 0 {
        let count = explained.left_out;
        text.push_str(&format!("{count} packets of all sources came too fast to be remembered, since the start\n"));
    }
    text
}

fn nothing_came(address: IpAddr) -> String {
    format!(
        "Is {address} the address that the server sees, behind the client's NAT? Do the packets arrive: does the client's network \
         let these ports out? A knock by the wrong protocol is only seen by: knockctl watch {address}"
    )
}

/// What to do after that step was the last one.
fn advice(step: &Step) -> Option<String> {
    let advice = match step.what {
        What::Knock => {
            "The knocks after this one did not come, or came as packets that knockd does not see: knockctl watch shows more"
        }
        What::Tripwire => {
            "A tripwire is the neighbour of a knock port. Does the client knock the ports of the rule, or does it scan?"
        }
        What::WrongOrder => {
            "Does the client have the sequence of the rule? Packets overtake each other, too: try a longer delay"
        }
        What::OtherRule => "Finish one sequence before the next one begins",
        What::TooSlow => "A longer timeout of the rule helps, or a shorter delay of the client",
        What::WrongProtocol => "TCP and UDP are different knocks: 7000 is TCP, 7000/udp is UDP",
        What::OtherDestination => "Knock the address that the rule has as its target, or one of this host",
        What::Retransmission | What::Repeated => "The next knock did not come",
        What::Cooldown => "Wait for the end of the cooldown",
        What::TurnedAway => "The address has no grant: it has to knock first",
        What::Refused => "The packet was authentic, and a rule for it or the key said no: knockctl spa keys",
        What::Failed => "The log has the whole error: journalctl -u knockd",
        What::Completed | What::Grant | What::Command => return None,
    };
    Some(advice.to_owned())
}

fn meaning(step: &Step) -> (Style, String) {
    let dots = dots(step.knocked, step.of);
    let more = without_rule_and_address(step);
    match step.what {
        What::Knock => (Style::new(), dots),
        What::Completed => (GOOD, dots),
        What::Grant | What::Command => (GOOD, more),
        What::Tripwire => (BAD, format!("{dots} touched a tripwire: starts again")),
        What::WrongOrder => (BAD, format!("{dots} then not the next knock: starts again")),
        What::OtherRule => (BAD, format!("{dots} then a knock of another rule: starts again")),
        What::TooSlow => (BAD, format!("{dots} too slow ({more}): starts again")),
        What::Retransmission => (DIM, format!("{dots} a packet that came before: does not count")),
        What::Repeated => (DIM, format!("{dots} the same knock again: does not count")),
        What::WrongProtocol => {
            (BAD, format!("{dots} knock {} came by the other protocol (tcp, udp): does not count", step.knocked + 1))
        }
        What::OtherDestination => (BAD, format!("{dots} the next knock went to another address: does not count")),
        What::Cooldown | What::Failed => (BAD, more),
        What::Refused => (BAD, format!("signed packet refused: {more}")),
        What::TurnedAway => (BAD, format!("turned away at {more}")),
    }
}

/// The text of a step without what is in its own columns: `granted, 3600 s (by uid 0)`.
fn without_rule_and_address(step: &Step) -> String {
    let text = step.text.as_deref().unwrap_or_default();
    let rule = format!("rule {}: ", step.rule.as_deref().unwrap_or_default());
    let mut text = text.strip_prefix(&rule).unwrap_or(text).to_owned();
    for preposition in ["to", "for"] {
        let words = format!(" {preposition} {}", step.address);
        // The address may be the beginning of another one, or of a prefix.
        if let Some((before, after)) = text.split_once(&words)
            && !after.starts_with(|next: char| next.is_alphanumeric() || "./:".contains(next))
        {
            text = format!("{before}{after}");
        }
    }
    text
}

/// The progress: a filled dot for each knock, never the ports.
fn dots(knocked: usize, of: usize) -> String {
    "●".repeat(knocked) + &"○".repeat(of.saturating_sub(knocked))
}

/// The time of day.
fn clock(seconds: f64) -> String {
    let (hour, minute, second, millisecond) = local(seconds).to_hms_milli();
    format!("{hour:02}:{minute:02}:{second:02}.{millisecond:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(what: What, knocked: usize, text: &str) -> Step {
        let text = (!text.is_empty()).then(|| text.to_owned());
        Step {
            time: 0.25,
            address: IpAddr::from([192, 0, 2, 7]),
            rule: Some("ssh".to_owned()),
            what,
            knocked,
            of: 5,
            text,
        }
    }

    #[test]
    fn a_step_shows_how_far_the_source_is_and_no_port() {
        let shown = |step: &Step| anstream::adapter::strip_str(&line(step)).to_string();
        let text = shown(&step(What::Tripwire, 4, ""));
        assert!(
            text.ends_with(":00.250  192.0.2.7        ssh         ●●●●○ touched a tripwire: starts again\n"),
            "{text}"
        );
        let text = shown(&step(What::TooSlow, 2, "6.2 s, the limit is 5 s"));
        assert!(text.ends_with("●●○○○ too slow (6.2 s, the limit is 5 s): starts again\n"), "{text}");
        let text = shown(&step(What::WrongProtocol, 2, ""));
        assert!(text.contains("●●○○○ knock 3 came by the other protocol"), "{text}");
    }

    #[test]
    fn what_has_a_column_of_its_own_is_not_repeated() {
        let of = |text: &str| without_rule_and_address(&step(What::Grant, 0, text));
        assert_eq!(of("rule ssh: granted to 192.0.2.7, 60 s (by uid 0)"), "granted, 60 s (by uid 0)");
        assert_eq!(of("rule ssh: extended for 192.0.2.7, 60 s"), "extended, 60 s");
        assert_eq!(of("rule ssh: the grant to 192.0.2.7 has ended"), "the grant has ended");
        assert_eq!(of("rule ssh: granted to 192.0.2.70/31, 60 s"), "granted to 192.0.2.70/31, 60 s");
        assert_eq!(of("rule ssh: granted to 192.0.2.7/24, 60 s"), "granted to 192.0.2.7/24, 60 s");
    }

    #[test]
    fn an_explanation_ends_with_what_to_do() {
        let explain = |steps: Vec<Step>| {
            let address = IpAddr::from([192, 0, 2, 7]);
            explained(&Explained { address, steps, since_seconds: Some(90.0), left_out: 0 })
        };
        assert!(explain(vec![step(What::TooSlow, 2, "")]).ends_with("or a shorter delay of the client\n"));
        assert!(explain(Vec::new()).starts_with("no packet from 192.0.2.7 to a knock port came in the 1m 30s that"));
        assert!(explain(vec![step(What::Grant, 0, "opened")]).ends_with("opened\u{1b}[0m\n"));
    }
}
