//! Failpoints are in no default build, and every point in the sources is one that a plan may name.

use std::path::Path;

use token_broker::failpoint::POINTS;

/// The binary beside these tests is built as they are: without the feature, unless somebody gives it.
#[cfg(not(feature = "failpoints"))]
#[test]
fn a_default_binary_knows_nothing_of_failpoints() {
    const PREFIX: &[u8] = b"TOKEN_BROKER_";
    let binary = std::fs::read(env!("CARGO_BIN_EXE_token-broker")).unwrap();
    let found = binary.windows(PREFIX.len()).enumerate().filter(|(_, part)| *part == PREFIX);
    let named: Vec<&[u8]> = found.map(|(at, _)| &binary[at..binary.len().min(at + 40)]).collect();
    let knows = |variable: &str| named.iter().any(|name| name.starts_with(variable.as_bytes()));
    assert!(knows("TOKEN_BROKER_CONFIG"), "its variables are found where there are any");
    for variable in ["TOKEN_BROKER_FAILPOINTS", "TOKEN_BROKER_FAILPOINT_LOG", "TOKEN_BROKER_CLOCK_OFFSET"] {
        assert!(!knows(variable), "{variable}");
    }
}

/// The points passed in the sources, in order of file.
fn passed(below: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            passed(&path, into);
        } else {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for call in ["failpoint::hit(\"", "failpoint::check(\""] {
                let points = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                into.extend(points.map(str::to_owned));
            }
        }
    }
}

#[test]
fn a_point_in_the_sources_is_one_that_a_plan_may_name() {
    let mut found = Vec::new();
    passed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.iter().any(|point| point == "store.sync.before"), "the search finds something: {found:?}");
    for point in found {
        assert!(POINTS.iter().any(|(known, _)| *known == point), "{point} is not in failpoint::POINTS");
    }
}
