//! A random sequence of knocks: `knockctl sequence`.

/// The ports are from here on: below are those of services, which some networks do not let out.
const FIRST: u16 = 1024;

/// A sequence of that many TCP ports. No two are equal or neighbours, and they neither ascend nor descend, so that no scan
/// of ports walks them. `random` gives numbers from 0 to 65535, each with the same probability.
///
/// # Errors
///
/// Where `random` fails.
pub(super) fn sequence<E>(knocks: usize, mut random: impl FnMut() -> Result<u16, E>) -> Result<Vec<u16>, E> {
    let mut ports: Vec<u16> = Vec::with_capacity(knocks);
    loop {
        let port = random()?;
        if port < FIRST || ports.iter().any(|other| other.abs_diff(port) <= 1) {
            continue;
        }
        ports.push(port);
        if ports.len() < knocks {
            continue;
        }
        if !ports.is_sorted() && !ports.iter().rev().is_sorted() {
            return Ok(ports);
        }
        ports.clear();
    }
}

/// A random number from the kernel (getrandom(2)).
///
/// # Errors
///
/// Where the kernel has none.
pub(super) fn random_number() -> rustix::io::Result<u16> {
    let mut bytes = [0; 2];
    // Reads of up to 256 bytes are not interrupted.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ports_neighbours_repeats_and_scan_orders_are_left_out() {
        let mut numbers = [22, 5000, 5001, 5000, 6000, 7000, 9000, 8000, 2000, 30_000, 25_000, 40_000].into_iter();
        let found = sequence(3, || numbers.next().ok_or("no more numbers"));
        // 5000, 6000, 7000 ascend; 9000, 8000, 2000 descend.
        assert_eq!(found, Ok(vec![30_000, 25_000, 40_000]));
    }

    #[test]
    fn a_sequence_passes_the_check_of_the_configuration_without_a_warning() {
        for knocks in [3, 5, 32] {
            let found = sequence(knocks, random_number).expect("random numbers");
            let text = format!(r#"{{"rules": [{{"name": "x", "sequence": {found:?}, "command": "true"}}]}}"#);
            assert_eq!(knock_config::parse("test.json", &text).expect("valid").warnings, []);
        }
    }
}
