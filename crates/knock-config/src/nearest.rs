//! Finds the known word that is most similar to a mistyped one.

/// The candidate within two edits of `word` (one edit for words shorter than four letters); the nearest of several.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().flat_map(char::to_lowercase).collect();
    let limit = if word.len() < 4 { 1 } else { 2 };
    candidates
        .filter_map(|candidate| {
            // The difference of the lengths is a lower bound of the edits, and cheap to compute.
            let length = candidate.chars().count();
            let alike = length.abs_diff(word.len()) <= limit;
            let edits = if alike { distance(&word, candidate, limit) } else { None };
            edits.map(|edits| (edits, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: the insertions, deletions and substitutions between two words, without regard to case.
/// `None` if it is more than `limit`.
fn distance(a: &[char], b: &str, limit: usize) -> Option<usize> {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
        if row.iter().all(|edits| *edits > limit) {
            return None;
        }
    }
    Some(row[b.len()]).filter(|edits| *edits <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised() {
        let known = ["sequence", "setup", "timeout"];
        assert_eq!(nearest("sequnce", known.into_iter()), Some("sequence"));
        assert_eq!(nearest("Timeout", known.into_iter()), Some("timeout"));
        assert_eq!(nearest("steup", known.into_iter()), Some("setup"));
        assert_eq!(nearest("set", ["sit", "sat5"].into_iter()), Some("sit"));
        assert_eq!(nearest("set", ["so"].into_iter()), None, "two edits are much for three letters");
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(nearest("", known.into_iter()), None);
    }

    #[test]
    fn the_distance_counts_edits_up_to_a_limit() {
        let edits = |a: &str, b, limit| distance(&a.chars().collect::<Vec<_>>(), b, limit);
        assert_eq!(edits("kitten", "sitting", 3), Some(3));
        assert_eq!(edits("kitten", "sitting", 2), None);
        assert_eq!(edits("", "abc", 3), Some(3));
        assert_eq!(edits("abc", "abc", 0), Some(0));
        assert_eq!(edits("abc", "ABC", 0), Some(0));
    }
}
