//! The README's figures are those of bench/RESULTS.md, rounded.

use std::path::Path;

/// A row of the README's table: what it is called there, and what it must say.
struct Row {
    label: &'static str,
    figures: Vec<f64>,
}

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// All numbers in a text, each as it is written.
fn numbers(text: &str) -> Vec<&str> {
    let part = |c: char| c.is_ascii_digit() || c == ',' || c == '.';
    let words = text.split(|c| !part(c)).map(|word| word.trim_matches([',', '.']));
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit())).collect()
}

fn value(number: &str) -> f64 {
    number.replace(',', "").parse().unwrap()
}

/// The first number in a column of a row, in a section of the results.
fn result(results: &str, section: &str, row: &str, column: &str) -> f64 {
    let body = results.split("\n## ").find(|body| body.starts_with(section));
    let mut lines = body.unwrap_or_default().lines().filter(|line| line.starts_with('|'));
    let head = cells(lines.next().unwrap_or_default());
    let at = head.iter().position(|cell| *cell == column);
    let found = lines.map(cells).find(|line| line[0] == row);
    let cell = at.and_then(|at| found?.get(at).and_then(|cell| numbers(cell).first().copied()));
    value(cell.unwrap_or_else(|| panic!("bench/RESULTS.md has no '{column}' of '{row}' in '{section}'")))
}

/// What a load has come to: requests a second, CPU, times the floor.
fn load(results: &str, name: &str) -> [f64; 3] {
    let row = format!("{name}, 1 connection");
    ["requests/s", "CPU us", "ratio"].map(|column| result(results, "Load", &row, column))
}

/// The peaks of all loads on 8 connections that write, in MB.
fn peaks(results: &str) -> Vec<f64> {
    let rows = results.lines().map(cells).filter(|row| row[0].ends_with(", 8 connections"));
    let writing = rows.filter(|row| result(results, "Load", row[0], "B/request") > 0.0);
    let mut peaks: Vec<f64> =
        writing.map(|row| result(results, "Load", row[0], "peak kB") / 1000.0).collect();
    peaks.sort_by(f64::total_cmp);
    peaks
}

fn rows(results: &str) -> Vec<Row> {
    let process = |row| result(results, "The process", row, "value");
    let size = |row| result(results, "Size", row, "bytes");
    let [one, forty, hundred] = ["metric-001", "metric-027", "metric-x100"].map(|name| load(results, name));
    let peaks = peaks(results);
    let (least, most) = (peaks[0], peaks[peaks.len() - 1]);
    let start = process("spawn to connected") / 1000.0;
    vec![
        Row {
            label: "binary; image; as pushed",
            figures: vec![size("binary"), size("image"), size("pushed")],
        },
        Row {
            label: "start to accepted connection",
            figures: vec![start, process("spawn to connected, in times of /bin/true")],
        },
        Row { label: "memory, idle", figures: vec![process("idle RSS, before the first request") / 1000.0] },
        Row { label: "one metric instance in a request", figures: one.to_vec() },
        Row { label: "40 recorded instances, 13 kB", figures: forty.to_vec() },
        Row {
            label: "100 plain instances",
            figures: vec![hundred[0], hundred[0] * 100.0 / 1e6, hundred[1], hundred[2]],
        },
        Row { label: "memory under 8 connections with 32 of these at once", figures: vec![least, most] },
    ]
}

/// Whether a number as written is this figure, rounded to its last digit that
/// isn't a zero. Bytes are not rounded.
fn agrees(written: &str, figure: f64, exact: bool) -> bool {
    let digits = written.replace(',', "");
    let half = match digits.split_once('.') {
        Some((_, part)) => 0.5 / 10_f64.powi(part.len() as i32),
        None => {
            let zeros = digits.len() - digits.trim_end_matches('0').len();
            // 20 stands for 19.0 to 21.0, not for 15 to 25.
            (0.5 * 10_f64.powi(zeros as i32)).min((value(written) / 20.0).max(0.5))
        }
    };
    (value(written) - figure).abs() <= if exact { 0.0 } else { half + 1e-9 }
}

/// Where the README says something else than the results.
fn disagreements(readme: &str, results: &str) -> Vec<String> {
    let table = readme.split("\n## Measured\n").nth(1).unwrap_or_default();
    let table = table.split("\n## ").next().unwrap_or_default();
    let mut found = Vec::new();
    for Row { label, figures } in rows(results) {
        let Some(said) = table.lines().map(cells).find(|row| row[0] == label) else {
            found.push(format!("the README has no row '{label}'"));
            continue;
        };
        let written = numbers(said[1]);
        let exact = label.starts_with("binary");
        let agree = written.iter().zip(&figures).all(|(written, figure)| agrees(written, *figure, exact));
        if !agree || written.len() != figures.len() {
            found.push(format!("'{label}': the README says {written:?}, bench/RESULTS.md {figures:?}"));
        }
    }
    found
}

#[test]
fn the_readme_has_the_figures_of_the_results() {
    let found = disagreements(&file("README.md"), &file("bench/RESULTS.md"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_figure_that_drifts_is_noticed() {
    let (readme, results) = (file("README.md"), file("bench/RESULTS.md"));
    for Row { label, .. } in rows(&results) {
        let line = readme.lines().find(|line| cells(line)[0] == label).unwrap();
        let said = cells(line)[1];
        for (at, number) in numbers(said).iter().enumerate() {
            // The first digit, one higher.
            let first = number.chars().next().and_then(|c| c.to_digit(10)).unwrap();
            let drifted = format!("{}{}", (first + 1) % 10, &number[1..]);
            let place = number.as_ptr() as usize - line.as_ptr() as usize;
            let changed = format!("{}{drifted}{}", &line[..place], &line[place + number.len()..]);
            let found = disagreements(&readme.replace(line, &changed), &results);
            assert_eq!(found.len(), 1, "figure {at} of '{label}', as {drifted}: {found:?}");
        }
    }
}

#[test]
fn rounding_is_to_the_last_digit_written() {
    for (written, figure, right) in [
        ("98,000", 98_429.0, true),
        ("98,000", 98_600.0, false),
        ("1.4", 1.45, true),
        ("1.4", 1.46, false),
        ("20", 20.34, true),
        ("20", 22.0, false),
        ("4.1", 4.122, true),
        ("13", 13.04, true),
    ] {
        assert_eq!(agrees(written, figure, false), right, "{written} for {figure}");
    }
    assert!(!agrees("605,000", 605_008.0, true));
}
