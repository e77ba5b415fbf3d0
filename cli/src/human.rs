//! Numbers as people read and write them: durations, ages, sizes, round-trip times.

use std::time::Duration;

use carrick_types::UnixTime;

const UNITS: [(char, u64); 5] =
    [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60), ('w', 7 * 24 * 60 * 60)];

/// Reads `90s`, `30m`, `1h`, `7d`, `2w`, or several of them in a row: `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    seconds(text)
        .map(Duration::from_secs)
        .ok_or_else(|| "write a duration as 90s, 30m, 1h, 7d or 1h30m".to_owned())
}

fn seconds(mut text: &str) -> Option<u64> {
    let mut sum = 0_u64;
    loop {
        let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let mut rest = rest.chars();
        let unit = rest.next()?;
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        sum = number.parse::<u64>().ok()?.checked_mul(seconds)?.checked_add(sum)?;
        text = rest.as_str();
        if text.is_empty() {
            return Some(sum);
        }
    }
}

/// How long ago, or how far ahead, to the nearest second: `12s ago`, `in 59m`.
pub(crate) fn relative(time: UnixTime, now: UnixTime) -> String {
    if time > now {
        format!("in {}", age(time.saturating_since(now)))
    } else {
        format!("{} ago", age(now.saturating_since(time)))
    }
}

/// In the largest unit of which there are two: `90m` rather than `1h`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = (duration + Duration::from_millis(500)).as_secs();
    let (value, unit) = match seconds {
        0..120 => (seconds, 's'),
        120..7_200 => (seconds / 60, 'm'),
        7_200..172_800 => (seconds / 3_600, 'h'),
        _ => (seconds / 86_400, 'd'),
    };
    format!("{value}{unit}")
}

/// `512 B`, `1.5 KiB`, `20.0 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `0.42 ms`, `17.3 ms`, `120 ms`; `-` where it was not measured.
pub(crate) fn rtt(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2} ms"),
        Some(value) if value < 100.0 => format!("{value:.1} ms"),
        Some(value) => format!("{value:.0} ms"),
    }
}

/// The number and what it counts: `1 node`, `2 nodes`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1_800), ("1h", 3_600), ("7d", 604_800), ("1h30m", 5_400), ("2w", 1_209_600)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "1",
            "h",
            "1h30",
            "-1h",
            "1 h",
            "1y",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615w",
        ] {
            parse_duration(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_time_is_told_from_now() {
        let now = UnixTime::from_millis(1_000_000_000_000);
        let at_millis =
            |millis| relative(UnixTime::from_millis(now.as_millis().strict_add_signed(millis)), now);
        let at = |seconds: i64| at_millis(seconds * 1_000);
        assert_eq!(at(0), "0s ago");
        assert_eq!(at(-12), "12s ago");
        assert_eq!(at(-119), "119s ago");
        assert_eq!(at(-120), "2m ago");
        assert_eq!(at(-7_200), "2h ago");
        assert_eq!(at(-172_800), "2d ago");
        assert_eq!(at(3_600), "in 60m");
        assert_eq!(at_millis(3_599_990), "in 60m");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(
            [0, 1_023, 1_536, 20 << 20, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "20.0 MiB", "16777216.0 TiB"]
        );
    }

    #[test]
    fn a_round_trip_time_has_three_digits() {
        assert_eq!(
            [None, Some(0.42), Some(17.26), Some(120.4)].map(rtt),
            ["-", "0.42 ms", "17.3 ms", "120 ms"]
        );
    }
}
