//! Knock to open, on a machine that has nothing else to do.

use std::time::Duration;

use serde::Serialize;

use crate::candidate::Candidate;
use crate::error::Result;
use crate::statistics::{Openings, Summary};

/// After this time a knock counts as lost.
const OPENING_TIMEOUT: Duration = Duration::from_secs(2);

/// How fast a candidate opened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) candidate: String,
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// That many knocks at each candidate, in turn: what disturbs the machine for a while disturbs all alike.
pub(crate) fn measure(candidates: &mut [&mut Candidate], knocks: u32) -> Result<Vec<Row>> {
    let mut openings = vec![Openings::default(); candidates.len()];
    for candidate in candidates.iter_mut() {
        candidate.warm_up()?;
    }
    for _ in 0..knocks {
        for (candidate, openings) in candidates.iter_mut().zip(&mut openings) {
            openings.add(candidate.knock_when_closed(OPENING_TIMEOUT)?);
        }
    }
    let row = |(candidate, openings): (&&mut Candidate, &Openings)| Row {
        candidate: candidate.name.clone(),
        summary: openings.summary(),
    };
    Ok(candidates.iter().zip(&openings).map(row).collect())
}
