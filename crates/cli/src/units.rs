//! Sizes and times as people write and read them. Binary units only, named as such.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `1536` becomes `1.5 KiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let (unit, scale) = UNITS.iter().find(|(_, scale)| count >= *scale).copied().unwrap_or(("B", 1));
    if scale == 1 {
        return format!("{count} B");
    }
    let tenths = count / (scale / 10).max(1);
    if tenths >= 1000 { format!("{} {unit}", count / scale) } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

/// Reads `4096`, `64K`, `4MiB`, `1.5G`; K, M, G and T count in 1024.
///
/// # Errors
/// One sentence that says what is accepted.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write a number with K, M, G or T (of 1024), for example 4MiB");
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(wrong);
    }
    let value: f64 = number.parse().map_err(|_| wrong())?;
    let product = value * scale as f64;
    if (0.0..9e18).contains(&product) { Ok(product as u64) } else { Err(wrong()) }
}

/// Reads `30s`, `15m`, `2h`, `7d`.
///
/// # Errors
/// One sentence that says what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write a number with s, m, h or d, for example 2h");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = number.parse().map_err(|_| wrong())?;
    count.checked_mul(scale).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(wrong)
}

/// `3725` seconds become `1h 2m`.
#[must_use]
pub fn seconds(count: u64) -> String {
    match count {
        0..60 => format!("{count}s"),
        60..3600 => format!("{}m {}s", count / 60, count % 60),
        3600..86_400 => format!("{}h {}m", count / 3600, count % 3600 / 60),
        _ => format!("{}d {}h", count / 86_400, count % 86_400 / 3600),
    }
}

/// A moment given as seconds since 1970, in UTC: `2025-03-09 14:05:59`.
#[must_use]
pub fn utc(seconds_since_1970: i64) -> String {
    // Civil date from day count, after Howard Hinnant, "chrono-compatible low-level date algorithms".
    let days = seconds_since_1970.div_euclid(86_400);
    let second = seconds_since_1970.rem_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second % 3600 / 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_in_binary_units() {
        assert_eq!(parse_bytes("4MiB"), Ok(4 << 20));
        assert_eq!(parse_bytes("64k"), Ok(64 << 10));
        assert_eq!(parse_bytes("1.5G"), Ok(3 << 29));
        assert_eq!(parse_bytes("17"), Ok(17));
        for bad in ["", "x", "4MB/s", "-1", "99999999999T"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits_at_most_before_the_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(4 << 20), "4.0 MiB");
        assert_eq!(bytes(300 << 20), "300 MiB");
    }

    #[test]
    fn a_duration_needs_a_unit_and_is_not_zero() {
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_duration("2").is_err());
        assert!(parse_duration("0s").is_err());
        assert_eq!(seconds(3725), "1h 2m");
    }

    #[test]
    fn moments_are_shown_in_the_civil_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_741_529_159), "2025-03-09 14:05:59");
    }
}
