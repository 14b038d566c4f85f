//! A body that is handed over in pieces, and holds something until the last of them is taken.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use http_body::{Frame, SizeHint};

/// What a connection takes at once.
const PIECE: usize = 64 * 1024;

/// See the module.
pub(super) struct Pieces<H> {
    rest: Bytes,
    _held: H,
}

impl<H> Pieces<H> {
    pub(super) fn new(body: Vec<u8>, held: H) -> Self {
        Self { rest: body.into(), _held: held }
    }
}

impl<H: Unpin> HttpBody for Pieces<H> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.rest.len().min(PIECE);
        // A copy: a part of the whole would keep the whole in memory after the last piece is taken.
        let piece = Bytes::copy_from_slice(&self.rest.split_to(size));
        Poll::Ready((size > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
