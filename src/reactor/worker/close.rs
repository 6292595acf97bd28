//! Closing connections: after the end of their stream, too late, or at once.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{SLICE, VACANT, Worker};
use crate::identity::{CloseReason, Identity};
use crate::ids::{GroupId, SubscriberId};
use crate::reactor::connection::{Connection, Phase};

/// How long a client has to close after the end of its stream, and how long it may be quiet before the server no longer
/// waits for it.
const LINGER: Duration = Duration::from_secs(1);
/// The first time between two checks of a client that has not taken the end of its stream; it doubles.
const FIRST_CHECK: Duration = Duration::from_millis(20);

impl Worker {
    /// The end of the body is written: the stream is over. The connection is kept until the client has taken
    /// everything, and for a moment more so that it may close first.
    pub(super) fn linger(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let identity = connection.identity.clone();
        let closed = connection.linger();
        self.by_key[identity.key] = VACANT;
        self.unregister(&identity, &CloseReason::CLOSED);
        match closed {
            Ok(()) => self.check_end(token),
            Err(_) => self.remove(token),
        }
    }

    /// Check whether the client has taken the end of its stream.
    fn check_end(&mut self, token: usize) {
        let Some(end) = self.connections.get_mut(token).and_then(Connection::check_end) else { return };
        if end.is_taken && end.waited >= LINGER {
            return self.remove(token);
        }
        if end.is_taken || end.quiet >= LINGER {
            self.stop_counting(token);
        }
        let rest = LINGER.saturating_sub(end.waited);
        self.close_after(token, if end.is_taken { rest } else { end.waited.clamp(FIRST_CHECK, LINGER) });
    }

    /// This stream no longer counts as open for those that wait for all to end.
    fn stop_counting(&mut self, token: usize) {
        if let Some(connection) = self.connections.get_mut(token)
            && std::mem::take(&mut connection.is_counted)
        {
            self.shared.stream_ended(connection.identity.group);
        }
    }

    /// Come back to a connection whose stream is over.
    pub(super) fn close_after(&mut self, token: usize, patience: Duration) {
        if let Some(connection) = self.connections.get(token) {
            self.ending.push(Reverse((Instant::now() + patience, token, connection.identity.id)));
        }
    }

    /// Close or check the connections that are due after the end of their stream, as many as fit in a slice.
    pub(super) fn close_overdue(&mut self) {
        let now = Instant::now();
        for closed in 1.. {
            match self.ending.peek() {
                Some(&Reverse((at, token, id))) if at <= now => self.close_if_over(token, id),
                _ => return,
            }
            if closed % 16 == 0 && now.elapsed() >= SLICE {
                return;
            }
        }
    }

    fn close_if_over(&mut self, token: usize, id: SubscriberId) {
        self.ending.pop();
        // Another client may have the token by now.
        let is_same = |found: &&Connection| found.identity.id == id && found.identity.closed.get().is_some();
        match self.connections.get(token).filter(is_same).map(|found| found.phase) {
            Some(Phase::Lingering) => self.check_end(token),
            Some(Phase::Open | Phase::Ending(_)) => self.close(token, &CloseReason::Stalled),
            None => {}
        }
    }

    /// Close a group's connections at once.
    pub(super) fn abort(&mut self, group: GroupId) {
        let of_group = |(_, connection): &(usize, &Connection)| connection.identity.group == group;
        let tokens: Vec<usize> = self.connections.iter().filter(of_group).map(|(token, _)| token).collect();
        for token in tokens {
            self.close(token, &CloseReason::Shutdown);
        }
    }

    /// Close everything at once, and take no more sockets.
    pub fn close_all(&mut self) {
        // The last commands hold descriptors, too.
        let commands = self.shared.refuse();
        self.obey(commands);
        let tokens: Vec<usize> = self.connections.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.close(token, &CloseReason::HubClosed);
        }
    }

    /// Close a connection, and its stream if that is open.
    pub(super) fn close(&mut self, token: usize, reason: &CloseReason) {
        let Some(connection) = self.connections.get(token) else { return };
        let identity = connection.identity.clone();
        if !matches!(connection.phase, Phase::Lingering) {
            self.by_key[identity.key] = VACANT;
            self.unregister(&identity, reason);
        }
        self.remove(token);
    }

    /// Unregister a subscriber, and report its end to the listener once.
    pub(super) fn unregister(&mut self, identity: &Arc<Identity>, reason: &CloseReason) {
        if self.hub.drop_subscriber(&self.reader, identity, reason.clone()) {
            self.listener.closed(identity, reason);
        }
    }

    fn remove(&mut self, token: usize) {
        self.stop_counting(token);
        if let Some(connection) = self.connections.try_remove(token)
            && let Some(place) = usize::try_from(connection.fd()).ok().and_then(|fd| self.by_fd.get_mut(fd))
        {
            *place = VACANT;
            // Its close takes it out of the poll. Should another process hold a copy for a moment longer, an event of it
            // finds nobody here, or makes the next connection of that number look at its socket once.
        }
    }
}
