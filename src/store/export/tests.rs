use proptest::prelude::*;

use super::*;
use crate::entropy::OsEntropy;

fn seals(keys: &Arc<KeyRing>) -> Seals {
    Seals { keys: Arc::clone(keys), entropy: Arc::new(OsEntropy) }
}

fn ring() -> Arc<KeyRing> {
    Arc::new(KeyRing::ephemeral(&OsEntropy))
}

/// An export of records whose one part counts up to `records`.
fn export(keys: &Arc<KeyRing>, records: u64, padding: usize) -> Vec<u8> {
    let header = ExportHeader {
        export: Uuid::from_u128(1),
        store: Uuid::from_u128(2),
        engine: "sled".into(),
        key: "k1".into(),
        key_made_at: Timestamp::from_millis(0),
        made_at: Timestamp::from_millis(0),
        rollback: None,
        missing: 0,
    };
    let mut bytes = Vec::new();
    let mut writer = Writer::begin(&mut bytes, seals(keys), &header).unwrap();
    let padding = vec![b'x'; padding];
    for record in 0..records {
        writer.push(&[("number", &record.to_be_bytes()), ("padding", &padding)]).unwrap();
    }
    assert_eq!(writer.end().unwrap(), records);
    bytes
}

fn read(bytes: &[u8], keys: &Arc<KeyRing>) -> Result<u64, ExportError> {
    let mut reader = Reader::begin(bytes, seals(keys))?;
    let mut records = 0;
    while let Some(frame) = reader.next_frame()? {
        for parts in frame {
            assert_eq!(*parts[0].1, u64::to_be_bytes(records));
            records += 1;
        }
    }
    Ok(records)
}

#[test]
fn what_was_written_is_read_in_order_and_nothing_of_it_stands_in_clear() {
    let keys = ring();
    for (records, padding) in [(0, 0), (1, 0), (3, 60_000), (4000, 100)] {
        let bytes = export(&keys, records, padding);
        assert_eq!(read(&bytes, &keys).unwrap(), records);
        assert!(!bytes.windows(20).any(|window| window == [b'x'; 20]));
    }
}

#[test]
fn an_export_that_ends_early_is_refused_wherever_it_ends() {
    let keys = ring();
    let bytes = export(&keys, 5, 40_000);
    for end in (0..bytes.len()).step_by(997).chain(bytes.len() - 200..bytes.len()) {
        assert!(read(&bytes[..end], &keys).is_err(), "cut at {end} of {}", bytes.len());
    }
    let more = [&bytes, b"x".as_slice()].concat();
    assert!(matches!(read(&more, &keys), Err(ExportError::Damaged { records: 5 })));
    let twice = [&bytes, bytes.as_slice()].concat();
    assert!(read(&twice, &keys).is_err());
}

#[test]
fn another_key_is_named_and_another_form_too() {
    let (keys, other) = (ring(), ring());
    let bytes = export(&keys, 5, 10);
    let error = read(&bytes, &other).unwrap_err();
    assert!(error.is_wrong_key(), "{error:?}");
    assert!(error.why().contains("sealed with key k1 (made 1970-01-01)"), "{}", error.why());
    let text = bytes.iter().position(|byte| *byte == b'1').unwrap();
    let mut newer = bytes.clone();
    newer[text] = b'2';
    assert!(matches!(read(&newer, &keys), Err(ExportError::UnknownForm(form)) if form == "2"));
    assert!(matches!(read(b"PK\x03\x04", &keys), Err(ExportError::NotAnExport)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_bit_that_flipped_anywhere_is_found(at: prop::sample::Index, bit in 0u8..8) {
        let keys = ring();
        let mut bytes = export(&keys, 30, 9000);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(read(&bytes, &keys).is_err(), "byte {}", at);
    }
}
