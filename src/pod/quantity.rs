//! Kubernetes quantities, such as `500m` or `1.5Gi`, as whole numbers of a small unit.

/// CPU in thousandths, rounded up; `None` for what is no quantity.
pub(crate) fn milli(quantity: &str) -> Option<u64> {
    scaled(quantity, 1000)
}

/// Memory in bytes, rounded up; `None` for what is no quantity.
pub(crate) fn bytes(quantity: &str) -> Option<u64> {
    scaled(quantity, 1)
}

/// CPU in thousandths, as people write it.
pub(crate) fn of_milli(milli: u64) -> String {
    if milli.is_multiple_of(1000) {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    }
}

/// Memory in bytes, as people write it.
pub(crate) fn of_bytes(bytes: u64) -> String {
    let units = [(1_u64 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| bytes.is_multiple_of(*unit));
    let (unit, suffix) = whole.unwrap_or((1, ""));
    format!("{}{suffix}", bytes / unit)
}

/// The value times `scale`, exactly. Numbers beyond u64 end at its largest: a simulated pod that
/// asks for that much is not worth an error.
fn scaled(quantity: &str, scale: u128) -> Option<u64> {
    let number_end = quantity
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+')
        .unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(number_end);
    let (numerator, denominator) = factor(suffix)?;
    let (whole, fraction) = number
        .trim_start_matches('+')
        .split_once('.')
        .unwrap_or((number.trim_start_matches('+'), ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // More digits than nano cannot be told apart by any suffix that Kubernetes has.
    let fraction = &fraction[..fraction.len().min(9)];
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let places = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let value = digits
        .checked_mul(numerator)
        .and_then(|value| value.checked_mul(scale))
        .map_or(u128::MAX, |value| match denominator.checked_mul(places) {
            Some(denominator) => value.div_ceil(denominator),
            None => u128::from(value != 0),
        });
    Some(u64::try_from(value).unwrap_or(u64::MAX))
}

fn factor(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.checked_pow(exponent.unsigned_abs().min(30))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_every_form_are_read_exactly() {
        for (text, want) in [
            ("2", Some(2000)),
            ("500m", Some(500)),
            ("0.25", Some(250)),
            (".5", Some(500)),
            ("1e3", Some(1_000_000)),
            ("100u", Some(1)),
            ("0.123456789e-30", Some(1)),
            ("0.000000000e-30", Some(0)),
            ("x", None),
            ("", None),
            ("1Qi", None),
        ] {
            assert_eq!(milli(text), want, "{text}");
        }
        for text in ["2", "1500m", "1m"] {
            assert_eq!(milli(text).map(of_milli).as_deref(), Some(text));
        }
        for text in ["4Gi", "3584Mi", "3Ki", "1000"] {
            assert_eq!(bytes(text).map(of_bytes).as_deref(), Some(text));
        }
        for (text, want) in [
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("128Mi", Some(128 << 20)),
            ("1G", Some(1_000_000_000)),
            ("40Ti", Some(40 << 40)),
            ("99999Ei", Some(u64::MAX)),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
