//! Every entry that `docs/providers.md` shows resolves as printed.

use serde_json::Value;

use super::super::{ProviderEntry, parse_yaml};

#[test]
fn every_entry_shown_in_the_docs_resolves_as_printed() {
    let page = include_str!("../../../../docs/providers.md");
    let blocks: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        let document = parse_yaml(block).unwrap();
        for entry in document.get("providers").and_then(Value::as_array).unwrap() {
            let entry: ProviderEntry = serde_json::from_value(entry.clone()).unwrap();
            entry.resolve(None).unwrap_or_else(|mistakes| panic!("{block}\n{mistakes:#?}"));
        }
    }
}
