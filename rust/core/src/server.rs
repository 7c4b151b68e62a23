//! One thread's accept loop, and how its connections end.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::connection::{self, Site};
use crate::listen::Listeners;
use crate::ticket::Cancels;
use crate::worker::{Door, Worker};

/// How often idle engine connections are looked at. The engine closes them after 5 s, we after 4 s.
const SWEEP: Duration = Duration::from_millis(500);

/// Requests that outlast the grace are told so within this time.
const FAREWELL: Duration = Duration::from_millis(250);

/// After this long a failed `accept` (no file descriptors left, say) is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the threads are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Serve.
    Run,
    /// Take nothing new, end what is in flight, within this time.
    Drain(Duration),
}

/// What one thread is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) cancels: Cancels,
}

/// Serve until told to stop. Returns whether every request ended by itself.
pub(crate) async fn run(
    worker: Rc<Worker>,
    listeners: Listeners,
    Told { mut orders, mut cancels }: Told,
) -> io::Result<bool> {
    let tcp = listeners.tcp.map(TcpListener::from_std).transpose()?;
    let tls = listeners.tls.map(TcpListener::from_std).transpose()?;
    let unix = listeners.unix.map(UnixListener::from_std).transpose()?;
    let draining = Rc::new(Notify::new());
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let site = |door| Site::new(&worker, door, &draining);
    let grace = loop {
        tokio::select! {
            accepted = accept_tcp(tcp.as_ref()) => match accepted {
                Ok(stream) => { connections.spawn_local(connection::serve(site(Door::Tcp), stream)); }
                Err(error) => pause(&error).await,
            },
            accepted = accept_tcp(tls.as_ref()) => match accepted {
                Ok(stream) => { connections.spawn_local(connection::serve_tls(site(Door::Tcp), stream)); }
                Err(error) => pause(&error).await,
            },
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok(stream) => { connections.spawn_local(connection::serve(site(Door::Unix), stream)); }
                Err(error) => pause(&error).await,
            },
            Some(_) = connections.join_next() => {}
            Some(order) = cancels.recv() => worker.tickets.cancel(order),
            _ = sweep.tick() => worker.pool.sweep(),
            order = orders.wait_for(|order| *order != Order::Run) => match order.as_deref() {
                Ok(Order::Drain(grace)) => break *grace,
                // The one who gives orders is gone: nobody will ever stop us otherwise.
                _ => break Duration::ZERO,
            },
        }
    };
    drop((tcp, tls, unix));
    worker.drain();
    draining.notify_waiters();
    let drained = tokio::time::timeout(grace, async {
        loop {
            tokio::select! {
                ended = connections.join_next() => if ended.is_none() { break },
                // Who cancels waits for each thread's answer.
                Some(order) = cancels.recv() => worker.tickets.cancel(order),
            }
        }
    })
    .await;
    if drained.is_err() {
        // Whoever listens is told why their request ends.
        worker.tickets.cancel_all();
        let told = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }
    connections.shutdown().await;
    Ok(drained.is_ok())
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<tokio::net::UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// What no file descriptor was left for waits in the system's queue until one is; who left it again costs nothing.
async fn pause(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
