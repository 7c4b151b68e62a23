use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use super::{bind_tcp, bind_unix};

#[test]
fn threads_share_one_port_but_servers_do_not() {
    let (address, listeners) = bind_tcp("127.0.0.1", 0, 3).unwrap();
    assert_eq!(listeners.len(), 3);
    let error = bind_tcp("127.0.0.1", address.port(), 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(listeners);
    bind_tcp("127.0.0.1", address.port(), 1).unwrap();
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    drop(UnixListener::bind(&path).unwrap());
    let (file, _listeners) = bind_unix(&path, 2).unwrap();
    assert_eq!(bind_unix(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(file);
    assert!(!path.exists());
}

#[test]
fn only_the_owner_may_connect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let _bound = bind_unix(&path, 1).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_is_no_socket_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "mine").unwrap();
    assert!(bind_unix(&path, 1).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}
