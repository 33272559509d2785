//! The figures, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::machine::Machine;
use crate::{flood, idle, latency, transfer};

/// Everything that a run found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The load when the run ended, as [`Machine::load`].
    pub(crate) load_at_end: String,
    /// Fewer knocks, shorter floods: to see that it works, not to compare.
    pub(crate) quick: bool,
    pub(crate) latency: Vec<latency::Row>,
    pub(crate) floods: Vec<Flooded>,
    pub(crate) idle_seconds: u64,
    pub(crate) idle: Vec<idle::Row>,
    pub(crate) transfer_seconds: u64,
    pub(crate) transfers: Vec<transfer::Row>,
    pub(crate) goals: Vec<Goal>,
}

/// A flood at each candidate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flooded {
    /// How fast it was to be.
    pub(crate) flood: &'static str,
    pub(crate) rows: Vec<flood::Row>,
}

/// Something that our daemon is to reach.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) goal: String,
    /// What was measured; `None` where nothing opened at all.
    pub(crate) value: Option<f64>,
    pub(crate) at_most: f64,
    pub(crate) reached: bool,
}

impl Goal {
    /// That `value` is at most `at_most`.
    pub(crate) fn new(goal: impl Into<String>, value: Option<f64>, at_most: f64) -> Goal {
        let reached = value.is_some_and(|value| value <= at_most);
        Goal { goal: goal.into(), value: value.map(|value| (value * 100.0).round() / 100.0), at_most, reached }
    }
}

impl Report {
    /// As aligned tables.
    pub(crate) fn tables(&self) -> String {
        let mut text = self.machine.lines();
        if self.quick {
            text.push_str("A quick run: it shows that everything works; compare the figures of a full one.\n");
        }
        text.push_str(&self.latency_table());
        self.floods.iter().for_each(|flooded| text.push_str(&flooded.table()));
        text.push_str(&self.transfer_table());
        text.push_str(&self.idle_table());
        text.push_str(&goal_table(&self.goals));
        let _ = writeln!(text, "\nload at the end: {}", self.load_at_end);
        text
    }

    fn latency_table(&self) -> String {
        let kernel =
            self.latency.iter().find(|row| row.candidate == crate::KERNEL).and_then(|row| row.summary.median_us);
        let rows = self.latency.iter().map(|row| {
            let s = &row.summary;
            let ratio = s.median_us.zip(kernel).map(|(median, kernel)| median / kernel);
            let name = row.candidate.clone();
            let lost = s.lost.to_string();
            vec![
                name,
                s.knocks.to_string(),
                lost,
                us(s.median_us),
                us(s.p90_us),
                fixed(ratio, 2),
                us(s.probe_median_us),
            ]
        });
        let head = ["knock to open", "knocks", "lost", "median µs", "p90 µs", "of in-kernel", "first probe µs"];
        table(&head, rows)
    }

    fn transfer_table(&self) -> String {
        let none = self.transfers.iter().find(|row| row.wakeups.is_none()).map(|row| row.gigabits);
        let rows = self.transfers.iter().map(|row| {
            let share = none.filter(|none| *none > 0.0).map(|none| row.gigabits / none);
            let gigabits = fixed(Some(row.gigabits), 2);
            vec![row.candidate.clone(), gigabits, fixed(share, 2), fixed(row.processor_ms, 3), shown(row.wakeups)]
        });
        let title = format!("transfers of {} s", self.transfer_seconds);
        table(&[&title, "Gbit/s", "of no daemon", "daemon CPU ms", "wake-ups"], rows)
    }

    fn idle_table(&self) -> String {
        let rows = self.idle.iter().map(|row| {
            let (wakeups, memory) = (row.wakeups.to_string(), row.resident_kib.to_string());
            vec![row.candidate.clone(), wakeups, fixed(Some(row.processor_ms), 3), memory]
        });
        table(&[&format!("{} s idle", self.idle_seconds), "wake-ups", "CPU ms", "PSS KiB"], rows)
    }
}

pub(crate) fn goal_table(goals: &[Goal]) -> String {
    let rows = goals.iter().map(|goal| {
        let said = if goal.reached { "reached" } else { "missed" };
        vec![goal.goal.clone(), fixed(goal.value, 2), fixed(Some(goal.at_most), 1), said.to_owned()]
    });
    table(&["goal", "measured", "at most", ""], rows)
}

impl Flooded {
    fn table(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let s = &row.summary;
            vec![
                row.candidate.clone(),
                row.packets.to_string(),
                fixed(Some(row.rate), 0),
                s.knocks.to_string(),
                s.lost.to_string(),
                us(s.median_us),
                us(s.p90_us),
                fixed(row.processor_us_per_packet, 2),
                shown(row.kernel_dropped),
                shown(row.resident_kib),
            ]
        });
        let head = [
            self.flood,
            "packets",
            "a second",
            "knocks",
            "lost",
            "median µs",
            "p90 µs",
            "CPU µs/packet",
            "dropped",
            "PSS KiB",
        ];
        table(&head, rows)
    }
}

fn us(value: Option<f64>) -> String {
    fixed(value, 0)
}

pub(crate) fn fixed(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.places$}"))
}

fn shown(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The first column to the left, the others to the right.
pub(crate) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::from("\n");
    for (number, line) in lines.iter().enumerate() {
        let mut shown = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(shown, "{cell:<width$}") } else { write!(shown, "  {cell:>width$}") };
        }
        let _ = writeln!(text, "{}", shown.trim_end());
        if number == 0 {
            let _ = writeln!(text, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_is_in_them() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "12345".to_owned()]];
        assert_eq!(
            table(&["µs", "n"], rows.into_iter()),
            "\nµs          n\n-------------\na           1\nlonger  12345\n"
        );
    }

    #[test]
    fn a_goal_of_which_nothing_was_measured_is_missed() {
        assert!(Goal::new("g", Some(1.2), 1.2).reached);
        assert!(!Goal::new("g", Some(1.21), 1.2).reached);
        assert!(!Goal::new("g", None, 1.2).reached);
    }
}
