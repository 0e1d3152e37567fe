use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::file::{decode, parse};
use super::*;
use crate::entropy::{OsEntropy, SeededEntropy};

const NOW: Timestamp = Timestamp::from_millis(1_795_269_600_123);
/// 32 random bytes, in both forms.
const BASE64: &str = "base64:3q2+7wABAgMEBQYHCAkKC0kd7w5vWs2i19N9a4GmU7E=";
const HEX: &str = "hex:deadbeef000102030405060708090a0b491def0e6f5acda2d7d37d6b81a653b1";

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    (folder, path)
}

fn why(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_generated_file_loads_is_0400_and_leaves_nothing_beside_it() {
    let (folder, path) = folder();
    let made = generate(&path, NOW, &OsEntropy).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
    assert_eq!(list(&path).unwrap(), std::slice::from_ref(&made));
    assert_eq!((made.id.as_str(), made.is_active), ("k1", true));
    assert_eq!(made.created_at.to_string(), NOW.to_string());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let (_folder, path) = folder();
    fs::write(&path, "something else").unwrap();
    assert_eq!(generate(&path, NOW, &OsEntropy).unwrap_err().fault, KeyFault::Exists);
    assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
}

#[test]
fn missing_directories_are_made_for_their_owner_alone() {
    let (folder, _) = folder();
    let outer = folder.path().join("etc");
    let path = outer.join("token-broker/seal.key");
    generate(&path, NOW, &OsEntropy).unwrap();
    assert!(KeyRing::load(&path).is_ok());
    for dir in [outer.as_path(), path.parent().unwrap()] {
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let (_folder, path) = folder();
    fs::write(&path, "a file").unwrap();
    let error = generate(&path.join("seal.key"), NOW, &OsEntropy).unwrap_err().to_string();
    assert!(error.contains(&format!("its directory {} cannot be made", path.display())), "{error}");
}

#[test]
fn two_generated_keys_differ() {
    let (one, two) = (folder(), folder());
    generate(&one.1, NOW, &OsEntropy).unwrap();
    generate(&two.1, NOW, &OsEntropy).unwrap();
    assert_ne!(fs::read(&one.1).unwrap(), fs::read(&two.1).unwrap());
}

#[test]
fn a_file_that_others_may_touch_is_refused() {
    let (_folder, path) = folder();
    generate(&path, NOW, &OsEntropy).unwrap();
    for mode in [0o440, 0o404, 0o600 | 0o020, 0o410, 0o444] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(KeyRing::load(&path).unwrap_err().fault, KeyFault::Mode(mode));
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(KeyRing::load(&path).is_ok());
}

#[test]
fn what_is_no_key_file_is_refused() {
    let (folder, path) = folder();
    assert_eq!(KeyRing::load(&path).unwrap_err().fault, KeyFault::Missing);
    fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(KeyRing::load(folder.path()).unwrap_err().fault, KeyFault::NotAFile);
}

#[test]
fn both_forms_give_the_same_key() {
    let date = "2026-11-21T14:00:00Z";
    let ring = |value: &str| parse(&format!("k1 {date} {value}")).unwrap();
    let (one, two) = (ring(BASE64), ring(HEX));
    assert_eq!(one.derived(b"k1", Purpose::Enc), two.derived(b"k1", Purpose::Enc));
    assert!(one.derived(b"k2", Purpose::Enc).is_none());
}

#[test]
fn weak_short_and_crooked_keys_are_refused() {
    let line = |value: &str| why(&format!("k1 2026-11-21T14:00:00Z {value}"));
    assert!(line(&format!("hex:{}", "00".repeat(32))).contains("repeats"));
    assert!(line(&format!("hex:{}", "0123456789abcdef".repeat(4))).contains("repeats"));
    let counting: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
    assert!(line(&format!("hex:{counting}")).contains("counts"));
    let text: String = b"correct horse battery staple 123".iter().map(|b| format!("{b:02x}")).collect();
    assert!(line(&format!("hex:{text}")).contains("text, not random"));
    assert!(line("hex:deadbeef").contains("exactly 32 bytes"));
    assert!(line("base64:c2hvcnQ=").contains("exactly 32 bytes"));
    assert!(line("base64:not base64").contains("not base64"));
    assert!(line("hex:xx").contains("not hexadecimal"));
    assert!(line("deadbeef").contains("must start with"));
    assert!(line(&format!("{BASE64} passive")).contains("only the word active"));
    assert!(why(&format!("1 2026-11-21T14:00:00Z {BASE64}")).contains("k and a number"));
    assert!(why(&format!("k1 yesterday {BASE64}")).contains("date"));
    assert_eq!(parse("# nothing\n\n").unwrap_err(), KeyFault::Empty);
}

#[test]
fn of_several_keys_exactly_one_is_active() {
    let other = "hex:0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff1";
    let text = |a: &str, b: &str| {
        format!("k1 2026-11-21T14:00:00Z {BASE64}{a}\nk2 2026-11-22T14:00:00Z {other}{b}\n")
    };
    let ring = parse(&text("", " active")).unwrap();
    assert_eq!(ring.active().id.as_str(), "k2");
    assert_eq!(ring.infos().len(), 2);
    assert_eq!(parse(&text("", "")).unwrap_err(), KeyFault::Active);
    assert_eq!(parse(&text(" active", " active")).unwrap_err(), KeyFault::Active);
    assert!(
        why(&format!("k1 2026-11-21T14:00:00Z {BASE64}\nk1 2026-11-21T14:00:00Z {other}"))
            .contains("id is used")
    );
    assert!(
        why(&format!("k1 2026-11-21T14:00:00Z {BASE64}\nk2 2026-11-21T14:00:00Z {HEX}"))
            .contains("value is used")
    );
}

#[test]
fn a_ring_never_prints_a_key() {
    let ring = parse(&format!("k1 2026-11-21T14:00:00Z {HEX}")).unwrap();
    assert_eq!(format!("{ring:?}"), "KeyRing { keys: [k1], active: k1 }");
}

proptest! {
    #[test]
    fn no_random_key_is_taken_for_weak(seed: u64) {
        let entropy: &dyn Entropy = &SeededEntropy::new(seed);
        let value: String = entropy.bytes::<32>().iter().map(|b| format!("{b:02x}")).collect();
        let line = format!("k7 2026-11-21T14:00:00Z hex:{value}");
        prop_assert!(parse(&line).is_ok());
    }

    #[test]
    fn any_text_is_parsed_without_panic_and_no_error_repeats_it(text in "\\PC{0,200}") {
        if let Err(fault) = parse(&text) {
            prop_assert!(text.len() < 12 || !fault.to_string().contains(&text));
        }
    }
}

#[test]
fn keys_are_derived_as_they_always_were() {
    let ring = parse(&format!("k1 2026-11-21T14:00:00Z {HEX}")).unwrap();
    let root = decode(HEX).unwrap();
    for (purpose, info) in [(Purpose::Enc, "token-broker/1/enc"), (Purpose::Escrow, "token-broker/1/escrow")]
    {
        let mut key = [0; 32];
        let extracted = Hkdf::<Sha256>::new(Some(b"token-broker ring"), root.expose());
        extracted.expand(info.as_bytes(), &mut key).unwrap();
        assert_eq!(ring.derived(b"k1", purpose).unwrap().expose(), &key);
        assert_eq!(ring.active_derived(purpose).expose(), &key);
    }
}
