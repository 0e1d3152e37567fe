use proptest::prelude::*;

use super::*;
use crate::entropy::{OsEntropy, SeededEntropy};

const STORE: Uuid = Uuid::from_u128(7);
const PLACE: Place<'static> =
    Place { tenant: "acme", provider: "google", connection: b"user-42", field: Field::Tokens, generation: 3 };

fn sealer(seed: u64) -> Sealer {
    let ring = KeyRing::ephemeral(&SeededEntropy::new(seed));
    Sealer::new(Arc::new(ring), STORE, Arc::new(OsEntropy))
}

#[test]
fn what_is_sealed_opens_at_its_place() {
    let sealed = sealer(1).seal(PLACE, b"at-1");
    assert_eq!(sealer(1).open(PLACE, &sealed).unwrap().as_slice(), b"at-1");
}

#[test]
fn sealing_twice_repeats_nothing() {
    let (one, two) = (sealer(1).seal(PLACE, b"at-1"), sealer(1).seal(PLACE, b"at-1"));
    assert_eq!(one[..4], two[..4], "form and key id");
    for part in [4..36, 36..68, 68..80, 80..one.len()] {
        assert_ne!(one[part.clone()], two[part]);
    }
}

#[test]
fn the_envelope_is_pinned_byte_by_byte() {
    let sealed = sealer(1).seal(PLACE, b"at-1");
    assert_eq!(sealed.len(), 2 + 2 + 32 + 32 + 12 + 4 + 16);
    assert_eq!(sealed[..4], [1, 2, b'k', b'1']);
    let aad = PLACE.aad(STORE, b"k1");
    let (key, commit) = aad_keys(&aad, &sealed[4..36]);
    assert_eq!(sealed[36..68], commit);
    let mut plain = sealed[80..84].to_vec();
    decrypt(&key, &sealed[68..80], &aad, &mut plain, &sealed[84..]).unwrap();
    assert_eq!(plain, b"at-1");
    assert_eq!(aad.len(), 8 * 8 + 1 + 16 + 2 + 4 + 6 + 7 + 6 + 8);
}

fn aad_keys(aad: &[u8], salt: &[u8]) -> ([u8; 32], [u8; 32]) {
    let ring = KeyRing::ephemeral(&SeededEntropy::new(1));
    let enc = ring.derived(b"k1", Purpose::Enc).unwrap();
    let mut out = [0; 64];
    hkdf::Hkdf::<sha2::Sha256>::new(Some(salt), enc.expose()).expand(aad, &mut out).unwrap();
    (out[..32].try_into().unwrap(), out[32..].try_into().unwrap())
}

#[test]
fn a_value_opens_nowhere_but_at_its_own_place() {
    let sealed = sealer(1).seal(PLACE, b"at-1");
    let others = [
        Place { tenant: "", ..PLACE },
        Place { tenant: "acmE", ..PLACE },
        Place { provider: "github", ..PLACE },
        Place { connection: b"user-43", ..PLACE },
        Place { field: Field::Profile, ..PLACE },
        Place { generation: 2, ..PLACE },
        Place { generation: 4, ..PLACE },
        // The same bytes, cut elsewhere.
        Place { tenant: "acmeg", provider: "oogle", ..PLACE },
        Place { provider: "googleuser", connection: b"-42", ..PLACE },
    ];
    for other in others {
        assert_eq!(sealer(1).open(other, &sealed).unwrap_err(), Unopened::Refused, "{other:?}");
    }
    let elsewhere = Sealer { store: Uuid::from_u128(8), ..sealer(1) };
    assert_eq!(elsewhere.open(PLACE, &sealed).unwrap_err(), Unopened::Refused);
}

#[test]
fn another_key_of_the_same_name_is_refused_by_the_commitment() {
    let sealed = sealer(1).seal(PLACE, b"at-1");
    assert_eq!(sealer(2).open(PLACE, &sealed).unwrap_err(), Unopened::Refused);
}

#[test]
fn an_unknown_key_and_an_unknown_form_are_said() {
    let mut sealed = sealer(1).seal(PLACE, b"at-1");
    sealed[3] = b'9';
    assert_eq!(sealer(1).open(PLACE, &sealed).unwrap_err(), Unopened::UnknownKey);
    sealed[0] = 2;
    assert_eq!(sealer(1).open(PLACE, &sealed).unwrap_err(), Unopened::Format);
}

proptest! {
    #[test]
    fn anything_sealed_opens_again(plain in prop::collection::vec(any::<u8>(), 0..5000), generation: u64) {
        let place = Place { generation, ..PLACE };
        let sealed = sealer(1).seal(place, &plain);
        let opened = sealer(1).open(place, &sealed).unwrap();
        prop_assert_eq!(opened.as_slice(), plain.as_slice());
    }

    #[test]
    fn no_two_places_share_their_associated_data(
        one in place(), two in place(),
    ) {
        let aad = |place: &Owned| place.borrow().aad(STORE, b"k1");
        prop_assert_eq!(aad(&one) == aad(&two), one == two);
        let sealed = sealer(1).seal(one.borrow(), b"x");
        prop_assert_eq!(sealer(1).open(two.borrow(), &sealed).is_ok(), one == two);
    }

    #[test]
    fn one_flipped_bit_or_a_cut_never_opens(at in 0usize..96, bit in 0u8..8, cut in 0usize..104) {
        let sealed = sealer(1).seal(PLACE, b"four");
        let mut flipped = sealed.clone();
        flipped[at] ^= 1 << bit;
        prop_assert!(sealer(1).open(PLACE, &flipped).is_err());
        prop_assert!(sealer(1).open(PLACE, &sealed[..cut.min(sealed.len() - 1)]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(sealer(1).open(PLACE, &bytes).is_err());
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Owned(String, String, String, bool, u64);

impl Owned {
    fn borrow(&self) -> Place<'_> {
        let field = if self.3 { Field::Tokens } else { Field::Profile };
        Place { tenant: &self.0, provider: &self.1, connection: self.2.as_bytes(), field, generation: self.4 }
    }
}

fn place() -> impl Strategy<Value = Owned> {
    ("[ab]{0,2}", "[ab]{0,2}", "[ab]{0,2}", any::<bool>(), 0u64..3).prop_map(
        |(tenant, provider, name, field, generation)| Owned(tenant, provider, name, field, generation),
    )
}
