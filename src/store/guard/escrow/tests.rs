use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::connection::Holder;
use crate::entropy::SeededEntropy;
use crate::secret::Secret;
use crate::store::index::Index;
use crate::store::keyring::KeyRing;
use crate::store::remedy::Remedy;
use crate::store::seal::Sealer;

/// The second place of store `number` in `path`.
fn place(path: &Path, number: u128) -> EscrowDir {
    opened(path, number).unwrap()
}

fn opened(path: &Path, number: u128) -> Result<EscrowDir, OpenError> {
    let ring = Arc::new(KeyRing::ephemeral(&SeededEntropy::new(1)));
    let sealer = Sealer::new(ring, uuid::Uuid::from_u128(number), Arc::new(SeededEntropy::new(2)));
    let table = Table::new(sealer, Index::new(Secret::new([3; 32])));
    EscrowDir::open(path.join("second"), path, table)
}

fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(String::new(), "google".into(), name.into()).unwrap()
}

fn attempt(number: u64) -> Intent {
    let at = Timestamp::from_millis(1_790_000_000_000);
    Intent {
        attempt_id: number,
        holder: Holder(7),
        generation: 3,
        fence: 9,
        first_sent_at: at,
        sent_at: at + Duration::from_secs(1),
        deadline: at + Duration::from_secs(10),
        tries: 2,
        fingerprint: 11,
    }
}

fn issued(mark: &str) -> IssuedTokens {
    IssuedTokens {
        access_token: Secret::new(format!("access-{mark}")),
        token_type: "Bearer".into(),
        expires_in: Some(Duration::from_secs(3600)),
        refresh_token: Some(Secret::new(format!("refresh-{mark}"))),
        refresh_expires_in: Some(Duration::from_millis(90_000_500)),
        scopes: Some(["a", "b"].into_iter().collect()),
        account: None,
        variables: [("org".to_owned(), Some(mark.to_owned())), ("unfit".to_owned(), None)].into(),
    }
}

fn files(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path.join("second")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_none_or(|end| end != "place"));
    files.sort();
    files
}

#[tokio::test]
async fn what_was_put_is_given_back_whole_by_another_run_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), 1).put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap();
    let later = place(folder.path(), 1);
    let contents = later.list().await.unwrap();
    assert!(contents.unreadable.is_empty());
    let [held] = contents.tokens.as_slice() else { panic!("{contents:?}") };
    assert_eq!((&held.id, &held.attempt), (&id("user-42"), &attempt(5)));
    let (came, put) = (&held.issued, issued("one"));
    assert_eq!(came.access_token, put.access_token);
    assert_eq!(came.refresh_token, put.refresh_token);
    assert_eq!((&came.token_type, came.expires_in), (&put.token_type, put.expires_in));
    assert_eq!((came.refresh_expires_in, &came.scopes), (put.refresh_expires_in, &put.scopes));
    assert_eq!(came.variables, put.variables);
    // Another attempt lies beside it, the same one in its place.
    later.put(&id("user-42"), &attempt(6), &issued("two")).await.unwrap();
    later.put(&id("user-42"), &attempt(6), &issued("two")).await.unwrap();
    assert_eq!(files(folder.path()).len(), 2);
    later.remove(&id("user-42"), &attempt(5)).await.unwrap();
    later.remove(&id("user-42"), &attempt(6)).await.unwrap();
    later.remove(&id("user-42"), &attempt(6)).await.unwrap();
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn what_was_set_apart_is_told_as_such_by_every_later_run_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let place = |number| place(folder.path(), number);
    place(1).put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap();
    place(1).put(&id("user-42"), &attempt(6), &issued("two")).await.unwrap();
    for _ in 0..2 {
        place(1).set_apart(&id("user-42"), &attempt(5)).await.unwrap();
        let contents = place(1).list().await.unwrap();
        assert!(contents.unreadable.is_empty());
        let mut told: Vec<_> =
            contents.tokens.iter().map(|held| (held.attempt.attempt_id, held.is_apart)).collect();
        told.sort_unstable();
        assert_eq!(told, [(5, true), (6, false)]);
    }
    place(1).remove(&id("user-42"), &attempt(5)).await.unwrap();
    assert_eq!(files(folder.path()).len(), 1);
    place(1).set_apart(&id("user-42"), &attempt(9)).await.unwrap_err();
}

#[tokio::test]
async fn a_file_shows_neither_whose_it_is_nor_what_it_holds_and_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), 1);
    place.put(&id("user-42"), &attempt(5), &issued("canary")).await.unwrap();
    let [file] = files(folder.path()).try_into().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (name, bytes) = (file.to_str().unwrap(), fs::read(&file).unwrap());
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    for shown in ["user-42", "google", "canary"] {
        assert!(!name.contains(shown) && !holds(shown), "{shown}");
    }
}

#[tokio::test]
async fn what_does_not_open_is_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let place = |number| place(folder.path(), number);
    place(1).put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap();
    let [good] = files(folder.path()).try_into().unwrap();
    let bytes = fs::read(&good).unwrap();
    // Every bit of it counts.
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&good, &flipped).unwrap();
        let contents = place(1).list().await.unwrap();
        assert_eq!((contents.tokens.len(), contents.unreadable.len()), (0, 1), "byte {at}");
    }
    for len in [0, 3, 19, 20, bytes.len() - 1] {
        fs::write(&good, &bytes[..len]).unwrap();
        assert_eq!(place(1).list().await.unwrap().unreadable.len(), 1, "cut to {len}");
    }
    // Whole, and under another name, of another store, of somebody else.
    fs::remove_file(&good).unwrap();
    let renamed = good.with_file_name(format!("{:032x}-{:016x}.escrow", 1, 5));
    fs::write(&renamed, &bytes).unwrap();
    place(2).put(&id("user-43"), &attempt(8), &issued("two")).await.unwrap();
    fs::write(good.with_file_name("notes.txt"), "x").unwrap();
    fs::create_dir(good.with_file_name("lost+found")).unwrap();
    let before = files(folder.path());
    let contents = place(1).list().await.unwrap();
    assert!(contents.tokens.is_empty());
    let mut why: Vec<_> = contents.unreadable.iter().map(|kept| kept.why).collect();
    why.sort_unstable();
    let refused = "its seal does not fit: another key, another place, or damage";
    assert_eq!(why, ["it belongs to another store", "it is none of ours", refused]);
    assert_eq!(files(folder.path()), before, "nothing was removed");
}

#[tokio::test]
async fn a_file_that_was_whole_but_not_renamed_yet_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), 1).put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap();
    let [file] = files(folder.path()).try_into().unwrap();
    fs::rename(&file, file.with_extension("escrow.new")).unwrap();
    let later = place(folder.path(), 1);
    let contents = later.list().await.unwrap();
    assert_eq!((contents.tokens.len(), contents.unreadable.len()), (1, 0));
    later.remove(&id("user-42"), &attempt(5)).await.unwrap();
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn a_place_that_was_used_and_is_missing_or_another_stores_is_refused_and_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (second, aside) = (folder.path().join("second"), folder.path().join("aside"));
    place(folder.path(), 1).put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap();
    fs::rename(&second, &aside).unwrap();
    let refused = || opened(folder.path(), 1).err().expect("it is refused");
    let missing = refused();
    assert!(missing.to_string().contains(second.to_str().unwrap()), "{missing}");
    assert!(missing.why().contains("not there"), "{}", missing.why());
    assert!(!second.exists());
    // The bare mount point, and a place that another store has used.
    fs::create_dir(&second).unwrap();
    let empty = refused();
    assert!(empty.why().contains("mark"), "{}", empty.why());
    let elsewhere = tempfile::tempdir().unwrap();
    place(elsewhere.path(), 2);
    fs::remove_dir(&second).unwrap();
    fs::rename(elsewhere.path().join("second"), &second).unwrap();
    assert_eq!(refused(), empty);
    // A store that knows of none may begin there; the first one takes its own wherever that is mounted.
    place(folder.path(), 2);
    fs::remove_dir_all(&second).unwrap();
    fs::rename(&aside, &second).unwrap();
    assert_eq!(place(folder.path(), 1).list().await.unwrap().tokens.len(), 1);
}

#[tokio::test]
async fn a_place_that_was_given_up_is_begun_anew_by_what_the_sentence_says() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), 1);
    fs::remove_dir_all(folder.path().join("second")).unwrap();
    let remedy = opened(folder.path(), 1).err().expect("it is refused").remedy();
    let note = folder.path().join("second-place");
    let Remedy::Change(fix) = remedy else { panic!("{remedy:?}") };
    assert!(fix.contains(&format!("remove {}", note.display())), "{fix}");
    fs::remove_file(note).unwrap();
    place(folder.path(), 1);
    assert_eq!(place(folder.path(), 1).list().await.unwrap().unreadable.len(), 0);
}

#[tokio::test]
async fn a_write_that_fails_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), 1);
    let name = place.table.escrow_name(&id("user-42"), &attempt(5));
    // What cannot be renamed to: a directory.
    let whole = folder.path().join("second").join(format!("{name}{WHOLE}"));
    fs::create_dir(&whole).unwrap();
    place.put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap_err();
    assert_eq!(files(folder.path()), [whole]);
}

#[tokio::test]
async fn what_a_write_left_that_was_cut_short_goes_at_the_next_start_and_what_is_whole_stays() {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path(), 1).put(&id("user-42"), &attempt(5), &issued("one")).await.unwrap();
    let [file] = files(folder.path()).try_into().unwrap();
    let (bytes, unfinished) = (fs::read(&file).unwrap(), file.with_extension("escrow.new"));
    for len in [0, 3, 19, 20, bytes.len() - 1] {
        fs::write(&unfinished, &bytes[..len]).unwrap();
        place(folder.path(), 1);
        assert_eq!(files(folder.path()), std::slice::from_ref(&file), "cut to {len}");
    }
    // Of another store, under no name of ours, and whole: kept.
    place(folder.path(), 2).put(&id("user-42"), &attempt(6), &issued("two")).await.unwrap();
    let others = files(folder.path()).into_iter().find(|found| *found != file).unwrap();
    fs::rename(&others, others.with_extension("escrow.new")).unwrap();
    fs::write(file.with_file_name("notes.escrow.new"), "").unwrap();
    fs::rename(&file, &unfinished).unwrap();
    place(folder.path(), 1);
    assert_eq!(files(folder.path()).len(), 3);
}

/// The volume hangs: the one thread that may wait for it is taken.
#[test]
fn a_write_that_outlasts_its_callers_leaves_no_file_once_nobody_needs_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), 1);
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let hung = tokio::task::spawn_blocking(move || gate.recv());
        let (id, attempt, issued) = (id("user-42"), attempt(5), issued("one"));
        {
            let mut put = place.put(&id, &attempt, &issued);
            assert!(futures_util::poll!(&mut put).is_pending());
        }
        let again = futures_util::poll!(place.put(&id, &attempt, &issued));
        assert!(matches!(again, std::task::Poll::Ready(Err(_))), "two would write into one file");
        let removed = futures_util::poll!(place.remove(&id, &attempt));
        assert!(matches!(removed, std::task::Poll::Ready(Ok(()))));
        go.send(()).unwrap();
        hung.await.unwrap().unwrap();
        // The next to have the thread is past the write.
        place.list().await.unwrap();
        assert!(files(folder.path()).is_empty());
        place.put(&id, &attempt, &issued).await.unwrap();
    });
}
