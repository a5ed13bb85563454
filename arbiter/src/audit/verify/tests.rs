//! That a good log is verified, and that each promise can be seen broken.

mod folder;
mod mutations;
mod sources;
mod story;

use self::story::{Log, story};
use super::{Live, Report, Verifier, Violation};

fn verify(log: &Log) -> Result<Report, Violation> {
    let mut verifier = Verifier::new();
    for line in log.seal() {
        verifier.line(&line)?;
    }
    Ok(verifier.finish())
}

#[test]
fn a_log_with_every_kind_of_record_is_verified() {
    let report = verify(&story()).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((report.records, report.first_index, report.last_index), (55, 0, 54));
    assert_eq!((report.epochs, report.sessions, report.refusals), (2, 4, 1));
    assert_eq!((report.grants, report.waits, report.checkpoints), (11, 4, 1));
    assert_eq!(report.live, Live::default(), "nothing is kept of what is over");
    assert!(report.closed);
}

#[test]
fn every_beginning_of_a_good_log_is_a_good_log() {
    let lines = story().seal();
    for length in 0..=lines.len() {
        let mut verifier = Verifier::new();
        for line in &lines[..length] {
            verifier.line(line).unwrap_or_else(|violation| panic!("{violation}"));
        }
        assert_eq!(verifier.finish().records, length as u64);
    }
}

#[test]
fn a_report_reads_as_a_table_and_as_json() {
    let report = verify(&story()).unwrap();
    let text = report.to_string();
    assert!(text.ends_with("verified: 11 grants in order, no two grants overlap"), "{text}");
    assert!(text.contains("\nrecords      55, 0 to 54\n"), "{text}");
    assert!(text.contains("(25s)"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["live"]["held"], 0);
    assert_eq!(json["last_index"], 54);
}
