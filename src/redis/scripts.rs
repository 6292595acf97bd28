//! The scripts that Redis runs.

use std::sync::LazyLock;

/// A script, and its hash, by which Redis knows it once it was sent.
pub struct Script {
    text: &'static str,
    hash: LazyLock<String>,
}

impl Script {
    pub fn text(&self) -> &'static str {
        self.text
    }

    pub fn hash(&self) -> &str {
        &self.hash
    }
}

macro_rules! script {
    ($text:expr) => {
        Script { text: $text, hash: LazyLock::new(|| redis::Script::new($text).get_hash().to_owned()) }
    };
}

/// A function that returns the last id that the stream gave, or the error if Redis refuses. A stream that does not exist gets
/// a beginning of its own first, without an entry.
///
/// Without that, every stream would begin at `0-0`: a client cut before the first event could not tell its
/// stream from a later one in its place. No entry has such an id: it is before what the next
/// gets, with a counter that entries do not reach. Where a beginning is refused, as by a replica or to a user who may
/// not, it is `0-0` after all, which proves nothing.
///
/// The second function gives the id for an entry behind this one. Behind a beginning, Redis would give `MS-0`, which
/// a stream that was evicted or deleted in the same millisecond may have given before. So the counter begins with the
/// microsecond: an earlier stream had given fewer than a thousand ids in each. Redis counts on from there.
macro_rules! last_id {
    () => {
        r"
local function last_id(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err then
    if not string.find(info.err, 'no such key', 1, true) then return info end
    local time = redis.call('TIME')
    local ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - 1)
    local id = ms .. '-' .. string.format('%.0f', 1000000 + time[2])
    local made = redis.pcall('XGROUP', 'CREATE', key, 'beginning', '$', 'MKSTREAM')
    if type(made) == 'table' and made.err then return '0-0' end
    redis.call('XGROUP', 'DESTROY', key, 'beginning')
    local set = redis.pcall('XSETID', key, id)
    if type(set) == 'table' and set.err then return '0-0' end
    return id
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end
local function next_id(before)
  local ms, counter = string.match(before, '^(%d+)-(%d+)$')
  if tonumber(counter) < 1000000 and before ~= '0-0' then return '*' end
  local time = redis.call('TIME')
  local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ms) + 1)
  return string.format('%.0f-%.0f', now, time[2] % 1000 * 1000)
end
"
    };
}

/// Gives the last id that the stream gave; one that does not exist gets a beginning.
///
/// `KEYS`: the stream.
pub static BEGIN: Script = script!(concat!(last_id!(), "return last_id(KEYS[1])"));

/// Appends entries, each of which names the one before it, and trims the stream. Gives each one's id, or why Redis
/// refused it.
///
/// The id before the first is the last that the stream gave, not that of its newest entry: after trimming or
/// deleting that one is gone, and the link would skip what was lost. Nothing comes between entries of one call.
///
/// Entries beyond the number to keep are trimmed only from a certain age on: otherwise a burst would overrun a process
/// that is briefly behind, and all its clients would be reset.
///
/// An entry is refused if its topic has ended, or if its lease is not held as the entry requires. Scripts run one after
/// the other, so the stream's order decides. The topics that have ended are in a set, scored by the time at which their
/// names are free. While the set is empty, checking it costs one command per batch.
///
/// `KEYS`: the stream; the topics that have ended; how each of them did. `ARGV`: how many entries to keep; how old they
/// may be in milliseconds, or nothing; how old they must be to go for their number; for each entry, how many topics must
/// not have ended, and these; for how many milliseconds the first of them ends, or nothing, and how; the key of a lease,
/// or nothing, and its token, nothing for a lease that nobody may hold; `1` if the entry releases it; how many fields
/// and values it has together, and these.
pub static PUBLISH: Script = script!(concat!(
    last_id!(),
    r"
local before = last_id(KEYS[1])
if type(before) ~= 'string' then return before end
local ids, newest, at, place = {}, nil, 4, next_id(before)
local has_ends, clock = redis.call('EXISTS', KEYS[2]) == 1, nil
local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end
local function refusal(first, count, lease, token)
  for i = first, first + (has_ends and count or 0) - 1 do
    local free = redis.call('ZSCORE', KEYS[2], ARGV[i])
    if free and tonumber(free) > now() then return {err = 'ENDED ' .. ARGV[i]} end
  end
  if lease ~= '' and (redis.call('GET', lease) or '') ~= token then return {err = 'FENCED lease'} end
end
local function finish(topic, keep, id, note)
  local past = string.format('%.0f', now())
  for _, free in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', past)) do
    redis.call('HDEL', KEYS[3], free)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', past)
  redis.call('ZADD', KEYS[2], string.format('%.0f', now() + keep), topic)
  redis.call('HSET', KEYS[3], topic, id .. ' ' .. note)
  local longest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', longest + 1000))
  redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', longest + 1000))
  has_ends = true
end
while at < #ARGV do
  local first, count = at + 1, tonumber(ARGV[at])
  local rest = first + count
  local ends, last = ARGV[rest], rest + 5 + ARGV[rest + 5]
  local id = refusal(first, count, ARGV[rest + 2], ARGV[rest + 3])
    or redis.pcall('XADD', KEYS[1], place, 'p', before, unpack(ARGV, rest + 6, last))
  if type(id) == 'string' then
    before, newest, place = id, id, '*'
    if ends ~= '' then finish(ARGV[first], ends, id, ARGV[rest + 1]) end
    if ARGV[rest + 4] == '1' then redis.call('DEL', ARGV[rest + 2]) end
  end
  ids[#ids + 1] = id
  at = last + 1
end
if newest then
  local now = tonumber(string.match(newest, '^%d+'))
  local function trim(age, ...)
    local ms = now - tonumber(age)
    if ms > 0 then redis.pcall('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', ms), ...) end
  end
  local over = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1])
  if over > 0 then trim(ARGV[3], 'LIMIT', over) end
  if ARGV[2] ~= '' then trim(ARGV[2]) end
end
return ids
"
));

/// Notes the copy of the stream that is written to from now on. If the copy before it was another one, which may have
/// acknowledged entries that this one lacks, appends an entry that says so. Gives 1 when it appended one, else 0.
///
/// `KEYS`: the stream; where the copy is noted. `ARGV`: this copy; the one it replicated until it took over; the one
/// that this process knew last; `1` if a replica that takes over has all that was acknowledged; `1` if another server
/// has; the entry's fields and values. Copies are `''` where there is none.
pub static TAKE_OVER: Script = script!(concat!(
    last_id!(),
    r"
local known = redis.call('GET', KEYS[2]) or ARGV[3]
if known == ARGV[1] then return 0 end
local is_whole = ARGV[known == ARGV[2] and 4 or 5] == '1'
if known ~= '' and not is_whole then
  local before = last_id(KEYS[1])
  if type(before) ~= 'string' then return before end
  redis.call('XADD', KEYS[1], next_id(before), 'p', before, unpack(ARGV, 6))
end
redis.call('SET', KEYS[2], ARGV[1])
return known ~= '' and not is_whole and 1 or 0
"
));

/// How topics have ended, for those whose names are not free: the topic; the id of the entry that ended it and how, in
/// one text; for how many milliseconds its name is not free.
///
/// `KEYS`: the topics that have ended; how each of them did. `ARGV`: the topics.
pub static ENDED: Script = script!(
    r"
local found = {}
if redis.call('EXISTS', KEYS[1]) == 0 then return found end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, topic in ipairs(ARGV) do
  local free = redis.call('ZSCORE', KEYS[1], topic)
  local left = free and tonumber(free) - now or 0
  local how = left > 0 and redis.call('HGET', KEYS[2], topic)
  if how then
    found[#found + 1] = {topic, how, string.format('%.0f', left)}
  end
end
return found
"
);

/// Takes a lease, or renews it, unless another token holds it. Gives 1 when this token holds it now, else 0.
///
/// `KEYS`: the lease. `ARGV`: the token; for how long, in milliseconds.
pub static LEASE: Script = script!(
    r"
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"
);

/// Gives a lease up, if this token holds it. Gives 1 when it did, else 0.
///
/// `KEYS`: the lease. `ARGV`: the token.
pub static RELEASE: Script = script!(
    r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
"
);

/// Notes that a worker is alive: it and its subscribers are believed for a while. Gives 1 when the worker's table is
/// whole, 0 when it was lost, with whatever was written since.
///
/// `KEYS`: the workers; the worker's subscribers. `ARGV`: the worker; how long, in milliseconds.
pub static ALIVE: Script = script!(
    r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return #redis.call('ZRANGEBYLEX', KEYS[2], '-', '[')
"
);

/// Adds a subscriber under a topic to a worker's table, if fewer than a limit are there at all workers that are believed
/// to be alive. Gives 1 when it is there, 0 when it is not, -1 when the worker's table is not whole.
///
/// `KEYS`: the workers; what the keys of their subscribers begin with; the worker's subscribers. `ARGV`: the topic; the
/// subscriber; the limit.
pub static CLAIM: Script = script!(
    r"
if #redis.call('ZRANGEBYLEX', KEYS[3], '-', '[') == 0 then return -1 end
local member = ARGV[1] .. '\0' .. ARGV[2]
if #redis.call('ZRANGEBYLEX', KEYS[3], '[' .. member, '[' .. member) > 0 then return 1 end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local first, last = '[' .. ARGV[1] .. '\0', '[' .. ARGV[1] .. '\0\255'
local found = 0
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
  found = found + #redis.call('ZRANGEBYLEX', KEYS[2] .. worker, first, last)
end
if found >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[3], 0, member)
return 1
"
);

/// The subscribers of a topic, at all workers that are believed to be alive.
///
/// `KEYS`: the workers; what the keys of their subscribers begin with. `ARGV`: the topic.
pub static PRESENT: Script = script!(
    r"
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local first, last = '[' .. ARGV[1] .. '\0', '[' .. ARGV[1] .. '\0\255'
local found = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
  for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2] .. worker, first, last)) do
    found[#found + 1] = string.sub(member, #ARGV[1] + 2)
  end
end
return found
"
);
