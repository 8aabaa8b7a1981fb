//! Ranges of slots in queries.

use std::ops::Range;

/// The same slots in as few ranges as possible: an owner of all shards has one.
pub(crate) fn merged(slots: &[Range<u16>]) -> Vec<Range<u16>> {
    let mut sorted: Vec<_> = slots.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u16>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one() {
        assert_eq!(merged(&[64..128, 0..64, 5..5, 200..300, 210..220]), [0..128, 200..300]);
        assert_eq!(merged(&[]), []);
    }
}
