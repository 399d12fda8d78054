//! Pulls from registries: real ones, and ones that break off, know no ranges, or lie about them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use suijuris_oci::image::{LAYER_TYPE, Platform};
use suijuris_oci::source::Source;
use suijuris_oci::store::{Hold, ImageStore, StoreError, StoreOptions, Unobserved};
use suijuris_oci::{ContentDigest, MANIFEST_TYPE, Options, Reference, Registry};
use suijuris_testkit::registry::{Real, falsify, noise};

use super::liar::{Answer, End, Liar, Seen};
use super::make::{Made, MadeLayer};
use super::store::{Shop, Witness};
use super::tarball::Tarball;
use super::text;

/// An image with one layer that no compression shortens.
fn large() -> Made {
    Made::new(vec![MadeLayer::plain(
        Tarball::default().file("noise", &noise(300_000)),
    )])
}

fn options() -> Options {
    Options {
        answer_within: Duration::from_secs(20),
        ..Options::default()
    }
}

fn source(address: &str, options: Options) -> Source {
    let registry = Arc::new(Registry::new(&address.parse().unwrap(), options).unwrap());
    let reference: Reference = format!("{address}/team/app:v1").parse().unwrap();
    Source::registry(registry, &reference).unwrap()
}

async fn pull(shop: &Shop, source: &Source) -> Result<Hold, StoreError> {
    shop.store
        .pull(source, "app", &Platform::host(), Arc::new(Unobserved))
        .await
}

/// A registry with one image, whose layer is sent as `lie` says: by where to begin, and the rest of it.
async fn registry(
    made: &Made,
    lie: impl Fn(&Seen, usize, &[u8]) -> Option<Answer> + Send + Sync + 'static,
) -> Liar {
    let blobs = made.blobs();
    let layer = ContentDigest::of(&made.layers[0].blob).to_string();
    let liar = Liar::start(move |seen: &Seen| {
        let (_, digest) = seen.path.split_once("/blobs/")?;
        let (_, bytes) = blobs.iter().find(|(hex, _)| digest.ends_with(hex.as_str()))?;
        let from = seen.range.as_ref().map_or(0, |range| {
            range
                .strip_prefix("bytes=")
                .unwrap()
                .strip_suffix('-')
                .unwrap()
                .parse()
                .unwrap()
        });
        let told = (digest == layer)
            .then(|| lie(seen, from, &bytes[from..]))
            .flatten();
        told.or_else(|| Some(Answer::new(200, bytes.clone())))
    })
    .await;
    liar.shelf
        .lock()
        .unwrap()
        .put_manifest("v1", MANIFEST_TYPE, &made.manifest);
    liar
}

fn part(from: usize, rest: &[u8]) -> Answer {
    let total = from + rest.len();
    Answer::new(206, rest).header("content-range", format!("bytes {from}-{}/{total}", total - 1))
}

fn is_whole(hold: &Hold) -> bool {
    let root = hold.root().unwrap();
    fs::read(root.layers()[0].tree.join("noise")).unwrap() == noise(300_000)
}

// proves F6
#[tokio::test]
async fn an_image_is_pulled_from_a_real_registry_and_from_where_it_broke_off() {
    let real = Real::open();
    let shop = Shop::new();
    let made = large();
    let registry = Registry::new(&real.address.parse().unwrap(), options()).unwrap();
    let reference: Reference = format!("{}/team/app:v1", real.address).parse().unwrap();
    made.push(&registry, &reference, shop.dir.path()).await;
    let from = source(&real.address, options());
    // A beginning, as a pull of long ago left it.
    let partial = shop
        .store
        .dir()
        .join("partial")
        .join(ContentDigest::of(&made.layers[0].blob).hex());
    fs::write(&partial, &made.layers[0].blob[..100_000]).unwrap();
    let witness = Arc::new(Witness::default());
    let hold = shop
        .store
        .pull(&from, "app", &Platform::host(), Arc::clone(&witness) as _)
        .await
        .unwrap();
    assert!(is_whole(&hold));
    let total = made.layers[0].blob.len();
    assert!(
        witness.seen().contains(&format!("fetching 0 100000/{total}")),
        "{:?}",
        witness.seen()
    );
    assert!(
        !witness
            .seen()
            .iter()
            .any(|word| word.starts_with("fetching 0 0/"))
    );
    assert!(witness.seen().contains(&format!("fetching 0 {total}/{total}")));
    assert_eq!(shop.count("partial"), 0);
}

#[tokio::test]
async fn a_registry_that_keeps_breaking_off_is_asked_for_the_rest() {
    let made = large();
    let liar = registry(&made, |_, from, rest| {
        let piece = &rest[..rest.len().min(100_000)];
        let total = from + rest.len();
        let answer = if from == 0 {
            Answer::new(200, piece)
        } else {
            Answer::new(206, piece).header("content-range", format!("bytes {from}-{}/{total}", total - 1))
        };
        let answer = answer.header("content-length", rest.len().to_string());
        Some(if piece.len() < rest.len() {
            answer.ending(End::Breaks)
        } else {
            answer
        })
    })
    .await;
    let shop = Shop::new();
    assert!(is_whole(
        &pull(&shop, &source(&liar.address, options())).await.unwrap()
    ));
    let ranges: Vec<_> = liar.seen().into_iter().filter_map(|seen| seen.range).collect();
    assert!(ranges.len() >= 3, "{ranges:?}");
}

#[tokio::test]
async fn what_came_before_the_end_of_a_pull_is_there_for_the_next() {
    let made = large();
    let cut = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&cut);
    let liar = registry(&made, move |_, from, rest| {
        match times.fetch_add(1, Ordering::Relaxed) {
            0 => Some(
                Answer::new(200, &rest[..150_000])
                    .header("content-length", rest.len().to_string())
                    .ending(End::Breaks),
            ),
            1 => Some(Answer::new(404, "")),
            _ => Some(part(from, rest)),
        }
    })
    .await;
    let shop = Shop::new();
    let error = pull(&shop, &source(&liar.address, options())).await.unwrap_err();
    assert!(text(&error).contains("is not in"), "{}", text(&error));
    assert_eq!(shop.count("partial"), 1);
    assert!(shop.store.list().unwrap().is_empty());
    assert!(is_whole(
        &pull(&shop, &source(&liar.address, options())).await.unwrap()
    ));
    let ranges: Vec<_> = liar.seen().into_iter().filter_map(|seen| seen.range).collect();
    assert!(ranges.last().unwrap() == "bytes=150000-", "{ranges:?}");
}

#[tokio::test]
async fn a_pull_that_is_dropped_goes_on_later() {
    let made = large();
    let hangs = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&hangs);
    let liar = registry(&made, move |_, from, rest| {
        match times.fetch_add(1, Ordering::Relaxed) {
            0 => Some(
                Answer::new(200, &rest[..150_000])
                    .header("content-length", rest.len().to_string())
                    .ending(End::Hangs),
            ),
            _ => Some(part(from, rest)),
        }
    })
    .await;
    let shop = Shop::new();
    let from = source(&liar.address, options());
    let partial = shop
        .store
        .dir()
        .join("partial")
        .join(ContentDigest::of(&made.layers[0].blob).hex());
    let arrived = async {
        // Until all that comes has come.
        while fs::metadata(&partial).map_or(0, |found| found.len()) < 150_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = pull(&shop, &from) => panic!("it cannot end"),
        () = arrived => {}
    }
    assert!(is_whole(&pull(&shop, &from).await.unwrap()));
    assert_eq!(shop.count("partial"), 0);
}

#[tokio::test]
async fn a_registry_without_ranges_sends_it_anew() {
    let made = large();
    let liar = registry(&made, |_, _, _| None).await;
    let shop = Shop::new();
    let partial = shop
        .store
        .dir()
        .join("partial")
        .join(ContentDigest::of(&made.layers[0].blob).hex());
    fs::write(&partial, &made.layers[0].blob[..1000]).unwrap();
    assert!(is_whole(
        &pull(&shop, &source(&liar.address, options())).await.unwrap()
    ));
}

#[tokio::test]
async fn a_beginning_of_something_else_is_thrown_away() {
    let made = large();
    let liar = registry(&made, |_, from, rest| (from > 0).then(|| part(from, rest))).await;
    let name = ContentDigest::of(&made.layers[0].blob).hex();
    for length in [1000, made.layers[0].blob.len(), made.layers[0].blob.len() + 1] {
        let shop = Shop::new();
        fs::write(shop.store.dir().join("partial").join(&name), vec![b'!'; length]).unwrap();
        assert!(
            is_whole(&pull(&shop, &source(&liar.address, options())).await.unwrap()),
            "{length}"
        );
    }
}

#[tokio::test]
async fn lies_about_ranges_and_content_are_refused() {
    let made = large();
    let name = ContentDigest::of(&made.layers[0].blob).hex();
    let check = |answer: fn(usize, &[u8]) -> Answer, expect: &'static str| {
        let (made, name) = (made.clone(), name.clone());
        async move {
            let liar = registry(&made, move |_, from, rest| (from > 0).then(|| answer(from, rest))).await;
            let shop = Shop::new();
            fs::write(
                shop.store.dir().join("partial").join(name),
                &made.layers[0].blob[..1000],
            )
            .unwrap();
            let error = pull(&shop, &source(&liar.address, options())).await.unwrap_err();
            assert!(text(&error).contains(expect), "{}", text(&error));
            assert!(shop.store.list().unwrap().is_empty());
        }
    };
    let other = |_: usize, rest: &[u8]| part(0, rest);
    check(other, "another part of the blob").await;
    check(|_, rest| Answer::new(206, rest), "another part of the blob").await;
    check(
        |from, rest| part(from, &[rest, b"more"].concat()),
        "another part of the blob",
    )
    .await;
    let long = |from: usize, rest: &[u8]| {
        let total = from + rest.len();
        Answer::new(206, [rest, b"more"].concat())
            .header("content-range", format!("bytes {from}-{}/{total}", total - 1))
    };
    check(long, "instead of").await;
    check(|_, _| Answer::new(416, ""), "416").await;
    // Wrong bytes from the beginning are not asked for again.
    let liar = registry(&made, |_, _, rest| Some(Answer::new(200, vec![b'!'; rest.len()]))).await;
    let shop = Shop::new();
    let error = pull(&shop, &source(&liar.address, options())).await.unwrap_err();
    assert!(
        text(&error).contains("not the one that is named"),
        "{}",
        text(&error)
    );
    let asked = liar
        .seen()
        .iter()
        .filter(|seen| seen.path.contains(&name))
        .count();
    assert_eq!(asked, 1);
    let kept: u64 = fs::read_dir(shop.store.dir().join("partial"))
        .unwrap()
        .map(|one| one.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(kept, 0, "nothing of it is kept");
}

#[tokio::test]
async fn two_pulls_at_once_fetch_a_layer_once() {
    let made = large();
    let liar = registry(&made, |_, _, _| None).await;
    let shop = Shop::new();
    let other = ImageStore::open(shop.store.dir(), StoreOptions::default()).unwrap();
    let from = source(&liar.address, options());
    let here = Platform::host();
    let second = other.pull(&from, "second", &here, Arc::new(Unobserved));
    let (first, second) = tokio::join!(pull(&shop, &from), second);
    assert!(is_whole(&first.unwrap()) && is_whole(&second.unwrap()));
    let name = ContentDigest::of(&made.layers[0].blob).hex();
    let fetched = liar
        .seen()
        .iter()
        .filter(|seen| seen.path.contains(&name))
        .count();
    assert_eq!(fetched, 1);
    assert_eq!(shop.store.list().unwrap().len(), 2);
}

#[tokio::test]
async fn partial_files_are_bounded_and_collected() {
    let shop = Shop::new();
    let partial = shop.store.dir().join("partial");
    for number in 0_u64..4 {
        let path = partial.join(format!("{number}"));
        fs::write(&path, vec![0; 1000]).unwrap();
        let at = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000 + number);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(at)
            .unwrap();
    }
    let busy = fs::File::open(partial.join("0")).unwrap();
    busy.lock().unwrap();
    let tight = StoreOptions {
        partial_bytes: 2500,
        ..StoreOptions::default()
    };
    let store = ImageStore::open(shop.store.dir(), tight).unwrap();
    assert_eq!(store.gc().unwrap().partials, 2);
    let mut left: Vec<_> = fs::read_dir(&partial)
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["0", "3"],
        "the oldest go, but the one that is being written"
    );
}

// proves F6
#[tokio::test]
async fn a_registry_whose_disk_was_tampered_with_is_found_out() {
    let real = Real::open();
    let shop = Shop::new();
    let made = large();
    let registry = Registry::new(&real.address.parse().unwrap(), options()).unwrap();
    let reference: Reference = format!("{}/team/app:v1", real.address).parse().unwrap();
    made.push(&registry, &reference, shop.dir.path()).await;
    falsify(&real.blob(&ContentDigest::of(&made.layers[0].blob).hex()));
    let error = pull(&shop, &source(&real.address, options())).await.unwrap_err();
    assert!(
        text(&error).contains("not the one that is named"),
        "{}",
        text(&error)
    );
    assert_eq!(shop.count("layers"), 0);
}

#[tokio::test]
async fn a_layer_larger_than_the_limit_is_not_asked_for() {
    let made = large();
    let liar = registry(&made, |_, _, _| None).await;
    let shop = Shop::new();
    let tight = Options {
        max_blob_bytes: 1000,
        ..options()
    };
    let error = pull(&shop, &source(&liar.address, tight)).await.unwrap_err();
    assert!(text(&error).contains("the limit is 1000"), "{}", text(&error));
    let name = ContentDigest::of(&made.layers[0].blob).hex();
    assert!(!liar.seen().iter().any(|seen| seen.path.contains(&name)));
    assert!(made.layers[0].blob.len() > 1000 && LAYER_TYPE.ends_with("tar"));
}

#[tokio::test]
async fn a_blob_that_cannot_be_unpacked_is_not_kept_and_one_that_no_disk_took_is() {
    let made = Made::new(vec![MadeLayer::gzip(Tarball::default().file("../evil", b"x"))]);
    let liar = registry(&made, |_, _, _| None).await;
    let shop = Shop::new();
    let error = pull(&shop, &source(&liar.address, options())).await.unwrap_err();
    assert!(text(&error).contains("contains `..`"), "{}", text(&error));
    assert_eq!(shop.count("partial"), 0);
    // Something stands where layers are put.
    let made = large();
    let liar = registry(&made, |_, from, rest| (from > 0).then(|| part(from, rest))).await;
    let layers = shop.store.dir().join("layers");
    fs::remove_dir(&layers).unwrap();
    fs::write(&layers, "").unwrap();
    pull(&shop, &source(&liar.address, options())).await.unwrap_err();
    assert_eq!(shop.count("partial"), 1);
    fs::remove_file(&layers).unwrap();
    fs::create_dir(&layers).unwrap();
    assert!(is_whole(
        &pull(&shop, &source(&liar.address, options())).await.unwrap()
    ));
    let name = ContentDigest::of(&made.layers[0].blob).hex();
    assert_eq!(
        liar.seen()
            .iter()
            .filter(|seen| seen.path.contains(&name))
            .count(),
        1
    );
}
