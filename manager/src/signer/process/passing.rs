//! Passing the ends of lanes from a worker to its manager (SCM_RIGHTS, unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Most lanes: a thread of the signer answers on each.
pub(super) const MAX_LANES: usize = 8;

/// How many lanes this machine has use for.
pub(super) fn lanes() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_LANES)
}

/// Sends the ends of lanes, in one message.
pub(super) fn send_lanes(control: &UnixStream, lanes: &[UnixStream]) -> io::Result<()> {
    let ends: Vec<_> = lanes.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LANES))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if !message.push(SendAncillaryMessage::ScmRights(&ends)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there are too many lanes"));
    }
    sendmsg(control, &[IoSlice::new(&[0])], &mut message, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the ends of lanes, within the control socket's timeout.
///
/// # Errors
/// `WouldBlock` where none came in time, `UnexpectedEof` where no more will.
pub(super) fn receive_lanes(control: &UnixStream) -> io::Result<Vec<UnixStream>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LANES))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut message, flags)?;
    let lanes: Vec<UnixStream> = message
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(ends) => Some(ends),
            _ => None,
        })
        .flatten()
        .map(UnixStream::from)
        .collect();
    if received.bytes == 0 || lanes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(lanes)
}
