//! Answers to clients whose request was never read: too many connections, or a head that is none.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::error::Error;

/// A client that goes on sending gets this long to read what it is told. Closing at once would take it away from it: the
/// system answers bytes that nobody reads with a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Tell the client what is wrong, and close.
pub(super) async fn send<S>(mut stream: S, error: &Error)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let told = async {
        stream.write_all(&answer(error)).await?;
        stream.shutdown().await?;
        // On the heap: an array is a part of the state of whoever waits.
        let mut rest = vec![0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Who does not listen is not told.
    let _ = timeout(LINGER, told).await;
}

fn answer(error: &Error) -> Vec<u8> {
    let body = error.to_json();
    let retry = error.retry_after().map(|seconds| format!("retry-after: {seconds}\r\n"));
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}connection: close\r\n\r\n",
        error.status(),
        body.len(),
        retry.unwrap_or_default(),
    );
    [head.as_bytes(), &body].concat()
}
