//! A moment in arbiter time: microseconds since the Unix epoch, written as RFC 3339 in UTC.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::Duration;

/// A moment in arbiter time, in microseconds since 1970-01-01T00:00:00Z.
///
/// Written with exactly six decimals and a `Z`: `2026-11-22T14:02:11.532481Z`. No other spelling is read, so
/// that a moment has one form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// A text that is not a moment in the one form that is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time like 2026-11-22T14:02:11.532481Z")]
pub struct InvalidTimestamp(pub String);

/// `9999-12-31T23:59:59.999999Z`: the last moment that the form can write.
const MICROS_MAX: u64 = 253_402_300_799_999_999;

/// Every digit a zero.
const FORM: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";

impl Timestamp {
    /// From microseconds since the Unix epoch. Saturates at the end of the year 9999.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros.min(MICROS_MAX))
    }

    /// Microseconds since the Unix epoch.
    pub fn as_micros(self) -> u64 {
        self.0
    }

    /// This moment, later by `duration`. Saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// This moment, later by so many milliseconds. Saturates.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self::from_micros(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment in its one form, in ASCII.
    pub fn digits(self) -> [u8; 27] {
        let mut text = *FORM;
        let (days, micros_of_day) = (self.0 / 86_400_000_000, self.0 % 86_400_000_000);
        let (year, month, day) = civil_from_days(days);
        let (seconds, micros) = (micros_of_day / 1_000_000, micros_of_day % 1_000_000);
        let mut pair = |at: usize, value: u64| {
            text[at] = b'0' + (value / 10) as u8;
            text[at + 1] = b'0' + (value % 10) as u8;
        };
        pair(0, year / 100);
        pair(2, year % 100);
        pair(5, month);
        pair(8, day);
        pair(11, seconds / 3600);
        pair(14, seconds / 60 % 60);
        pair(17, seconds % 60);
        pair(20, micros / 10_000);
        pair(22, micros / 100 % 100);
        pair(24, micros % 100);
        text
    }

    fn read(text: &str) -> Option<Self> {
        let bytes: &[u8; 27] = text.as_bytes().try_into().ok()?;
        let number = |at: usize, width: usize| {
            bytes[at..at + width]
                .iter()
                .try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
        };
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second, micro) = (number(11, 2)?, number(14, 2)?, number(17, 2)?, number(20, 6)?);
        if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        if FORM.iter().zip(bytes).any(|(sign, byte)| *sign != b'0' && sign != byte) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = days_from_civil(year, month, day);
        // A day that the month does not have is one of another.
        (civil_from_days(days) == (year, month, day))
            .then(|| Self(((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micro))
    }
}

// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": civil_from_days and days_from_civil, for days
// since 1970 only. Written out because sealing a record formats one and must cost nanoseconds.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let month_shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl std::str::FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        Self::read(text).ok_or_else(|| InvalidTimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.digits();
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time like 2026-11-22T14:02:11.532481Z")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_one_form() {
        let moment: Timestamp = "2026-11-22T14:02:11.532481Z".parse().unwrap();
        assert_eq!(moment.as_micros(), 1_795_356_131_532_481);
        assert_eq!(moment.to_string(), "2026-11-22T14:02:11.532481Z");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(u64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "2026-11-22T14:02:11Z",
            "2026-11-22t14:02:11.532481Z",
            "2026-11-22T14:02:11.532481+00:00",
            "2026-02-30T14:02:11.532481Z",
            "2025-02-29T14:02:11.532481Z",
            "2026-04-31T14:02:11.532481Z",
            "2026-13-01T14:02:11.532481Z",
            "1969-12-31T23:59:59.999999Z",
            "2026-11-22T24:00:00.000000Z",
            "+026-11-22T14:02:11.532481Z",
            "",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        // Every place has its sign.
        let good = "2028-02-29T14:02:11.532481Z";
        assert!(good.parse::<Timestamp>().is_ok());
        for at in 0..good.len() {
            let text = format!("{}x{}", &good[..at], &good[at + 1..]);
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read_again(micros in 0..=MICROS_MAX) {
            let moment = Timestamp::from_micros(micros);
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        }
    }
}
