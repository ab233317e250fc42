//! A parser of Prometheus's text format, sufficient for a histogram.

/// One line of a page.
#[derive(Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Label names with their unescaped values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// Reads a page of samples.
pub fn samples(page: &[u8]) -> Result<Vec<Sample>, String> {
    let page = std::str::from_utf8(page).map_err(|error| error.to_string())?;
    if !page.is_empty() && !page.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    page.split_terminator('\n')
        .map(|line| sample(line).ok_or_else(|| format!("no sample: {line:?}")))
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (name, mut rest) = line.split_once('{')?;
    let is_name = |name: &str| {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        name.bytes().all(letters) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
    };
    let mut labels = Vec::new();
    loop {
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = unescaped(after)?;
        labels.push((is_name(label).then(|| label.to_owned())?, value));
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => break rest = after.strip_prefix("} ")?,
        }
    }
    let value = if rest == "+Inf" { f64::INFINITY } else { rest.parse().ok()? };
    Some(Sample { name: is_name(name).then(|| name.to_owned())?, labels, value })
}

/// A value up to its closing quote, unescaped, and the rest.
fn unescaped(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        value.push(match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => '\n',
                same @ ('\\' | '"') => same,
                _ => return None,
            },
            other => other,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_anything_else_is_not() {
        let page = "a_b{c=\"d\\\"\\\\\\n,}é\",le=\"+Inf\"} 1.5e+06\nx{y=\"\"} NaN\n";
        let read = samples(page.as_bytes()).unwrap();
        assert_eq!((read[0].labels[0].1.as_str(), read[0].value), ("d\"\\\n,}é", 1.5e6));
        assert!(read[1].value.is_nan());
        for wrong in
            ["a", "a{b=\"c\"} 1", "a{b=\"c} 1\n", "a{b=\"\\t\"} 1\n", "{b=\"c\"} 1\n", "\n", "a{b=\"c\"} x\n"]
        {
            assert!(samples(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
