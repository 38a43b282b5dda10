//! Bytes to messages.

use std::net::{IpAddr, SocketAddr};

use dts_core::addr::Addr;
use dts_core::ring::{MAX_POINTS, RingHash, RingHashSpec, RingPoint};

use super::{EndReason, Malformed, Refusal, ToDaemon, ToProcess, WireTarget};
use crate::{Cluster, Member};

/// The first frame of `bytes`, without its length, and how many bytes it takes in all; `None` while it isn't complete.
/// `most` is the longest that it may be.
///
/// # Errors
///
/// When it is empty or longer than `most`; what follows then can't be read.
pub fn next_frame(bytes: &[u8], most: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let end = length as usize;
    if end == 0 || end > most.saturating_sub(4) {
        return Err(Malformed::Length(length.into()));
    }
    Ok(rest.get(..end).map(|frame| (frame, 4 + end)))
}

/// A message's bytes that haven't been read yet.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u8()?;
        let bytes = self.take(length.into())?;
        str::from_utf8(bytes).map_err(|_| Malformed::Value("text"))
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        self.array().map(|bytes| Addr::v6(bytes).into())
    }

    fn end(&mut self) -> Result<SocketAddr, Malformed> {
        Ok(SocketAddr::new(self.address()?, self.u16()?))
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value("flag")),
        }
    }

    fn finish<T>(&self, message: T) -> Result<T, Malformed> {
        match self.0 {
            [] => Ok(message),
            _ => Err(Malformed::Long),
        }
    }
}

impl<'a> ToDaemon<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// When it is no process's message.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body(frame);
        let message = match body.u8()? {
            0x01 => Self::Hello {
                version: body.u16()?,
                service: body.text()?,
            },
            0x02 => Self::Handover {
                id: body.u64()?,
                length: body.u32()?,
                target: match body.u8()? {
                    0 => WireTarget::Default,
                    1 => WireTarget::Local,
                    2 => WireTarget::Node(body.address()?),
                    _ => return Err(Malformed::Value("target")),
                },
            },
            0x03 => Self::Reject { id: body.u64()? },
            0x04 => Self::Leave { id: body.u64()? },
            kind => return Err(Malformed::Kind(kind)),
        };
        body.finish(message)
    }
}

impl<'a> ToProcess<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// When it is no daemon's message.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body(frame);
        let message = match body.u8()? {
            0x81 => Self::Welcome {
                version: body.u16()?,
                service: body.text()?,
            },
            0x82 => Self::Refused {
                version: body.u16()?,
                reason: match body.u8()? {
                    1 => Refusal::Version,
                    2 => Refusal::Service,
                    3 => Refusal::TooMany,
                    _ => return Err(Malformed::Value("reason")),
                },
            },
            0x83 => Self::Cluster(cluster(&mut body)?),
            0x84 => Self::Opened {
                id: body.u64()?,
                client: body.end()?,
                local: body.end()?,
            },
            0x85 => Self::Bytes {
                id: body.u64()?,
                offset: body.u32()?,
                last: body.flag()?,
                data: body.take(body.0.len())?,
            },
            0x86 => Self::Ended {
                id: body.u64()?,
                reason: match body.u8()? {
                    1 => EndReason::Client,
                    2 => EndReason::Overdue,
                    3 => EndReason::Dropped,
                    _ => return Err(Malformed::Value("reason")),
                },
            },
            kind => return Err(Malformed::Kind(kind)),
        };
        body.finish(message)
    }
}

fn cluster(body: &mut Body<'_>) -> Result<Cluster, Malformed> {
    let epoch = body.u64()?;
    let own = usize::from(body.u16()?);
    let kind = body.u8()?;
    let key = body.array()?;
    let hash = match kind {
        0 if key == [0; 16] => RingHash::Md5,
        1 => RingHash::SipHash { key },
        _ => return Err(Malformed::Value("hash")),
    };
    let count = body.u16()?;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(Member {
            name: body.text()?.to_owned(),
            address: body.address()?,
        });
    }
    let count = body.u32()?;
    if count > MAX_POINTS {
        return Err(Malformed::Value("number of points"));
    }
    let mut points: Vec<RingPoint> = Vec::new();
    for _ in 0..count {
        let point = RingPoint::new(body.u64()?, body.u16()?.into());
        points.push(point);
    }
    Cluster::new(epoch, own, members, RingHashSpec::from(hash), points)
        .ok_or(Malformed::Value("cluster"))
}
