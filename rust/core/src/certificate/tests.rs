use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use super::{AUTHORITY_LIFE, DAY, Pair, distinct, ensure, expiry, serves};

fn names() -> Vec<String> {
    vec!["model-host".to_owned(), "10.1.2.3".to_owned()]
}

fn read(directory: &Path) -> [String; 4] {
    ["ca.crt", "ca.key", "server.crt", "server.key"]
        .map(|name| fs::read_to_string(directory.join(name)).unwrap())
}

#[test]
fn what_is_made_serves_clients_that_trust_the_authority() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state/certs");
    let now = SystemTime::now();
    let pair = ensure(&directory, &names(), now).unwrap();
    let authority = Pair::named(&directory, "ca");
    for name in ["localhost", "127.0.0.1", "::1", "model-host", "10.1.2.3"] {
        for then in [now, now + 364 * DAY] {
            assert!(serves(&pair, &authority, &[name.to_owned()], then), "{name}");
        }
    }
    assert!(!serves(&pair, &authority, &["example.com".to_owned()], now));
    assert!(!serves(&pair, &authority, &names(), now + 366 * DAY));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for file in fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 4);
}

#[test]
fn what_is_there_is_kept_until_it_has_to_be_renewed() {
    let directory = tempfile::tempdir().unwrap();
    let begun = SystemTime::now();
    ensure(directory.path(), &names(), begun).unwrap();
    let first = read(directory.path());
    ensure(directory.path(), &names(), begun + 334 * DAY).unwrap();
    assert_eq!(read(directory.path()), first);
    let later = begun + 336 * DAY;
    let pair = ensure(directory.path(), &names(), later).unwrap();
    let second = read(directory.path());
    assert_eq!(second[..2], first[..2], "clients go on trusting the authority");
    assert!(second[2] != first[2] && second[3] != first[3]);
    let authority = Pair::named(directory.path(), "ca");
    assert!(serves(&pair, &authority, &names(), later + 364 * DAY));
}

#[test]
fn a_server_certificate_does_not_outlive_its_authority_which_is_replaced_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let begun = SystemTime::now();
    ensure(directory.path(), &names(), begun).unwrap();
    let first = read(directory.path());
    let late = begun + AUTHORITY_LIFE - 100 * DAY;
    let pair = ensure(directory.path(), &names(), late).unwrap();
    assert_eq!(read(directory.path())[..2], first[..2]);
    let end = expiry(&pair.certificate).unwrap().unwrap();
    assert!(end <= begun + AUTHORITY_LIFE && end > begun + AUTHORITY_LIFE - DAY);
    ensure(directory.path(), &names(), begun + AUTHORITY_LIFE - 10 * DAY).unwrap();
    assert_ne!(read(directory.path())[..2], first[..2]);
}

#[test]
fn another_name_is_taken_in_under_the_same_authority() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    ensure(directory.path(), &[], now).unwrap();
    let first = read(directory.path());
    let pair = ensure(directory.path(), &names(), now).unwrap();
    assert!(serves(&pair, &Pair::named(directory.path(), "ca"), &names(), now));
    assert_eq!(read(directory.path())[..2], first[..2]);
}

#[test]
fn a_broken_server_certificate_is_made_again_and_a_broken_authority_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    ensure(directory.path(), &[], now).unwrap();
    for (name, contents) in [("server.crt", "junk"), ("server.key", "")] {
        fs::write(directory.path().join(name), contents).unwrap();
        let pair = ensure(directory.path(), &[], now).unwrap();
        pair.load().unwrap();
    }
    fs::write(directory.path().join("ca.crt"), "junk").unwrap();
    let error = ensure(directory.path(), &[], now).unwrap_err().to_string();
    assert!(error.contains("ca.crt") && error.contains("remove"), "{error}");
    assert_eq!(fs::read_to_string(directory.path().join("ca.crt")).unwrap(), "junk");
}

#[test]
fn an_authority_of_ones_own_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let authority = Pair::named(directory.path(), "ca");
    authority.write(&certificate.pem(), &key.serialize_pem()).unwrap();
    let pair = ensure(directory.path(), &names(), now).unwrap();
    assert_eq!(fs::read_to_string(&authority.certificate).unwrap(), certificate.pem());
    assert!(serves(&pair, &authority, &names(), now));
}

#[test]
fn names_that_no_client_can_use_are_left_out() {
    let given = ["0.0.0.0", "::", "localhost", "two words", "", "box.local", "box.local"];
    let given: Vec<String> = given.map(str::to_owned).to_vec();
    assert_eq!(distinct(&given), ["localhost", "127.0.0.1", "::1", "box.local"]);
}

#[test]
fn a_pair_that_is_none_is_refused_by_the_name_of_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let good = ensure(directory.path(), &[], now).unwrap();
    let other = Pair::named(directory.path(), "ca");
    let missing = directory.path().join("missing.pem");
    let cases = [
        (Pair { certificate: missing.clone(), ..good.clone() }, "missing.pem"),
        (Pair { key: missing, ..good.clone() }, "missing.pem"),
        (Pair { certificate: good.key.clone(), ..good.clone() }, "server.key"),
        (Pair { key: good.certificate.clone(), ..good.clone() }, "server.crt"),
        (Pair { key: other.key, ..good.clone() }, "ca.key"),
    ];
    for (pair, file) in cases {
        let error = pair.load().unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
    good.load().unwrap();
}
