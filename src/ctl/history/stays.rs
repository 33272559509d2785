//! Who was in when: stays, folded from the events of grants. Pure: no journal, no clock.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

/// The most stays that are kept, and the most that may be under way; the oldest give way. A stay takes some 300 bytes.
const STAYS_MAX: usize = 20_000;

/// Whose grant it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Who {
    /// The instance of knockd: `lan` of the unit `knockd@lan.service`, empty for `knockd.service`.
    pub(super) instance: String,
    pub(super) rule: String,
    /// The address, or the prefix.
    pub(super) address: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// A grant began.
    Granted(Grant),
    /// A live grant was extended.
    Extended(Grant),
    /// A grant was revoked.
    Revoked {
        /// By whom, as `KNOCK_BY` says it.
        by: String,
    },
    /// A grant expired.
    Expired,
}

/// A grant that begins or is extended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grant {
    pub(super) by: String,
    pub(super) opens: String,
    pub(super) seconds: f64,
}

/// An event. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// Something happened to a grant.
    Grant { time: f64, who: Who, what: What },
    /// The daemon stopped. `grants_end`: the managed table, and the grants in it, went with it.
    Stopped { time: f64, instance: String, grants_end: bool },
    /// The machine was started.
    Booted { time: f64 },
}

/// How a stay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum End {
    /// It has not.
    Live,
    Expired,
    Revoked,
    /// The daemon stopped.
    Stopped,
    /// The machine was started again.
    Booted,
    /// The journal has no end of it.
    Unknown,
}

/// An address was in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Stay {
    #[serde(flatten)]
    pub(super) who: Who,
    pub(super) opens: String,
    /// `null`: it began before the first event in the journal.
    pub(super) from: Option<f64>,
    /// For a live one, when it is to expire.
    pub(super) until: f64,
    pub(super) end: End,
    /// Why it began, as `KNOCK_BY` says it.
    pub(super) by: String,
    /// Who revoked it.
    pub(super) revoked_by: String,
    /// How often it was extended.
    pub(super) extended: u64,
}

/// The stays, in the order of their ends.
#[derive(Debug, Default)]
pub(super) struct Stays {
    /// Stays that ended before are left out.
    since: f64,
    open: HashMap<Who, Stay>,
    ended: VecDeque<Stay>,
    /// Stays that had no room.
    left_out: u64,
}

impl Stays {
    pub(super) fn new(since: f64) -> Stays {
        Stays { since, ..Stays::default() }
    }

    /// Adds the next event.
    pub(super) fn add(&mut self, event: Event) {
        match event {
            Event::Grant { time, who, what } => self.add_of_grant(time, who, what),
            Event::Stopped { time, instance, grants_end } => {
                // The elements in user sets stay until they expire.
                let ends = |stay: &Stay| grants_end && stay.who.instance == instance && !is_in_user_set(stay);
                self.end_all(time, End::Stopped, ends);
            }
            Event::Booted { time } => self.end_all(time, End::Booted, |_| true),
        }
    }

    fn add_of_grant(&mut self, time: f64, who: Who, what: What) {
        let stay = self.open.remove(&who);
        match what {
            What::Granted(grant) => {
                if let Some(stay) = stay {
                    // Its end is missing: over the rate limit of the log, or the daemon was killed.
                    self.end(stay, time, End::Unknown);
                }
                self.begin(who, Some(time), time, grant);
            }
            What::Extended(grant) => match stay {
                Some(stay) => {
                    let (until, extended) = (time + grant.seconds, stay.extended + 1);
                    self.open.insert(who, Stay { until, extended, opens: grant.opens, ..stay });
                }
                None => {
                    self.begin(who.clone(), None, time, grant);
                    self.open.entry(who).and_modify(|stay| stay.extended = 1);
                }
            },
            What::Revoked { by } => {
                let stay = stay.unwrap_or_else(|| unknown(who, time));
                self.end(Stay { revoked_by: by, ..stay }, time, End::Revoked);
            }
            What::Expired => {
                let stay = stay.unwrap_or_else(|| unknown(who, time));
                self.end(Stay { until: time, ..stay }, time, End::Expired);
            }
        }
    }

    /// The stays in the order in which they ended, those that are live last, and how many have no room.
    pub(super) fn finish(mut self, now: f64) -> (Vec<Stay>, u64) {
        let (mut live, over): (Vec<Stay>, Vec<Stay>) =
            std::mem::take(&mut self.open).into_values().partition(|stay| stay.until > now);
        for stay in over {
            self.end(stay, now, End::Expired);
        }
        let by_end = |a: &Stay, b: &Stay| a.until.total_cmp(&b.until);
        live.sort_by(by_end);
        let mut stays: Vec<Stay> = self.ended.into();
        stays.sort_by(by_end);
        stays.append(&mut live);
        (stays, self.left_out)
    }

    fn begin(&mut self, who: Who, from: Option<f64>, time: f64, grant: Grant) {
        if self.open.len() >= STAYS_MAX {
            self.left_out += 1;
            return;
        }
        let Grant { by, opens, seconds } = grant;
        let (until, end, revoked_by) = (time + seconds, End::Live, String::new());
        self.open.insert(who.clone(), Stay { who, opens, from, until, end, by, revoked_by, extended: 0 });
    }

    /// Ends a stay, at its own time where that was over before.
    fn end(&mut self, stay: Stay, time: f64, end: End) {
        let is_over = stay.until <= time;
        let until = stay.until.min(time);
        if until < self.since {
            return;
        }
        if self.ended.len() >= STAYS_MAX {
            self.ended.pop_front();
            self.left_out += 1;
        }
        let end = if is_over && end != End::Revoked { End::Expired } else { end };
        self.ended.push_back(Stay { until, end, ..stay });
    }

    fn end_all(&mut self, time: f64, end: End, ends: impl Fn(&Stay) -> bool) {
        let ended: Vec<Who> = self.open.values().filter(|stay| ends(stay)).map(|stay| stay.who.clone()).collect();
        for stay in ended.iter().filter_map(|who| self.open.remove(who)).collect::<Vec<_>>() {
            self.end(stay, time, end);
        }
    }
}

/// A stay of which the journal has the end alone.
fn unknown(who: Who, time: f64) -> Stay {
    let (by, opens, revoked_by) = (String::new(), String::new(), String::new());
    Stay { who, opens, from: None, until: time, end: End::Unknown, by, revoked_by, extended: 0 }
}

/// A set is `FAMILY TABLE SET`, and ports have no blank.
fn is_in_user_set(stay: &Stay) -> bool {
    stay.opens.split(", ").any(|opens| opens.contains(' '))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn who(rule: &str, address: &str) -> Who {
        Who { instance: String::new(), rule: rule.to_owned(), address: address.to_owned() }
    }

    fn ssh() -> Who {
        who("ssh", "192.0.2.7")
    }

    fn grant(seconds: f64) -> Grant {
        Grant { by: "knock".to_owned(), opens: "22/tcp".to_owned(), seconds }
    }

    fn happened(time: f64, who: Who, what: What) -> Event {
        Event::Grant { time, who, what }
    }

    fn revoked(by: &str) -> What {
        What::Revoked { by: by.to_owned() }
    }

    fn stopped(time: f64, grants_end: bool) -> Event {
        Event::Stopped { time, instance: String::new(), grants_end }
    }

    /// From, until and end of each stay.
    fn stays(since: f64, now: f64, events: Vec<Event>) -> Vec<(Option<f64>, f64, End)> {
        let mut stays = Stays::new(since);
        events.into_iter().for_each(|event| stays.add(event));
        stays.finish(now).0.into_iter().map(|stay| (stay.from, stay.until, stay.end)).collect()
    }

    #[test]
    fn a_stay_goes_from_the_grant_to_its_end_or_is_live() {
        let granted = |time, seconds| happened(time, ssh(), What::Granted(grant(seconds)));
        assert_eq!(
            stays(
                0.0,
                1000.0,
                vec![
                    granted(100.0, 60.0),
                    happened(160.0, ssh(), What::Expired),
                    granted(200.0, 60.0),
                    happened(230.0, ssh(), What::Extended(grant(60.0))),
                    happened(250.0, ssh(), revoked("uid 0")),
                    granted(990.0, 60.0),
                ]
            ),
            [(Some(100.0), 160.0, End::Expired), (Some(200.0), 250.0, End::Revoked), (Some(990.0), 1050.0, End::Live),]
        );
    }

    #[test]
    fn a_stay_whose_begin_or_end_is_not_in_the_journal_is_shown_as_far_as_it_is_known() {
        let granted = |time, seconds| happened(time, ssh(), What::Granted(grant(seconds)));
        assert_eq!(stays(0.0, 1000.0, vec![happened(50.0, ssh(), What::Expired)]), [(None, 50.0, End::Expired)]);
        assert_eq!(
            stays(0.0, 1000.0, vec![happened(50.0, ssh(), What::Extended(grant(60.0)))]),
            [(None, 110.0, End::Expired)]
        );
        assert_eq!(
            stays(0.0, 1000.0, vec![granted(100.0, 60.0), granted(130.0, 60.0), granted(300.0, 60.0)]),
            [
                (Some(100.0), 130.0, End::Unknown),
                (Some(130.0), 190.0, End::Expired),
                (Some(300.0), 360.0, End::Expired),
            ]
        );
    }

    #[test]
    fn a_stop_ends_grants_in_the_managed_table_unless_they_are_kept() {
        let granted = || happened(100.0, ssh(), What::Granted(grant(600.0)));
        let in_set = Grant { opens: "inet filter knock_ssh4".to_owned(), ..grant(600.0) };
        let in_set = happened(100.0, who("set", "192.0.2.7"), What::Granted(in_set));
        assert_eq!(stays(0.0, 500.0, vec![granted(), stopped(200.0, true)]), [(Some(100.0), 200.0, End::Stopped)]);
        assert_eq!(stays(0.0, 500.0, vec![granted(), stopped(200.0, false)]), [(Some(100.0), 700.0, End::Live)]);
        assert_eq!(stays(0.0, 500.0, vec![in_set, stopped(200.0, true)]), [(Some(100.0), 700.0, End::Live)]);
        let other = Event::Stopped { time: 200.0, instance: "lan".to_owned(), grants_end: true };
        assert_eq!(stays(0.0, 500.0, vec![granted(), other]), [(Some(100.0), 700.0, End::Live)]);
        let booted = Event::Booted { time: 300.0 };
        assert_eq!(stays(0.0, 500.0, vec![granted(), booted]), [(Some(100.0), 300.0, End::Booted)]);
    }

    #[test]
    fn what_ended_before_the_window_is_left_out_and_memory_is_bounded() {
        let granted = |time, who| happened(time, who, What::Granted(grant(60.0)));
        let before = vec![granted(100.0, ssh()), happened(160.0, ssh(), What::Expired)];
        assert_eq!(stays(200.0, 1000.0, before), []);

        let mut many = Stays::new(0.0);
        for number in 0..STAYS_MAX + 7 {
            many.add(granted(100.0, who("ssh", &number.to_string())));
            many.add(happened(101.0, who("ssh", &number.to_string()), revoked("uid 0")));
        }
        for number in 0..STAYS_MAX + 5 {
            many.add(granted(200.0, who("ssh", &number.to_string())));
        }
        assert_eq!((many.ended.len(), many.open.len(), many.left_out), (STAYS_MAX, STAYS_MAX, 12));
    }
}
