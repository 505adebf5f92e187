//! A group's transactions, cut where the mirror has to be asked in between, and what a TRUNCATE removes.

use std::collections::HashMap;

use super::Advance;
use super::group::Group;
use super::operations::Operation;
use crate::error::Result;
use crate::mirror::filter::filter;
use crate::mirror::net::Net;
use crate::mirror::prepared::Prepared;
use crate::mirror::room::{Room, is_too_much};

impl Advance {
    /// Transactions that the mirror can be asked about together.
    pub(super) async fn part(
        &mut self,
        sql: &Prepared<'_>,
        mut nets: Vec<Net>,
        operations: &HashMap<i64, Operation>,
        group: &mut Group,
    ) -> Result<()> {
        let mut is_large = false;
        if let [net] = nets.as_mut_slice() {
            is_large = !self.find_truncated(sql, net).await?;
        }
        for table in filter(sql, &self.plan, &self.mirrors, &mut nets).await? {
            self.complete(sql, table).await?;
        }
        if is_large {
            for net in nets {
                let truncated = net.truncated.clone();
                self.stage_whole(sql, net, truncated, group).await?;
            }
            return Ok(());
        }
        nets.retain(|net| !net.writes.is_empty() || !net.operations.is_empty());
        for batch in self.cuts.batches(nets) {
            self.batch(sql, batch, operations, group).await?;
        }
        Ok(())
    }

    /// Adds to the transaction what its TRUNCATEs remove; not where that is too much to be in memory.
    async fn find_truncated(&self, sql: &Prepared<'_>, net: &mut Net) -> Result<bool> {
        let room = Room::batch(usize::MAX);
        let mut removed = Vec::new();
        for &(table, place) in &net.truncated {
            match self.mirrors[table].keys(sql, &room).await {
                Err(error) if is_too_much(&error) => return Ok(false),
                keys => removed.push((table, place, keys?)),
            }
        }
        for (table, place, keys) in removed {
            net.truncate(table, place, keys);
        }
        Ok(true)
    }
}

/// A TRUNCATE stands alone: it has to ask the mirror, as it is then, what it removes.
pub(super) fn parts(nets: Vec<Net>) -> Vec<Vec<Net>> {
    let mut parts: Vec<Vec<Net>> = Vec::new();
    let mut open = false;
    for net in nets {
        let alone = !net.truncated.is_empty();
        if !open || alone {
            parts.push(Vec::new());
        }
        open = !alone;
        if let Some(part) = parts.last_mut() {
            part.push(net);
        }
    }
    parts
}
