//! What Redis itself runs.

/// Appends entries, each of which names the one before it, and trims the stream. Gives each one's id, or why Redis
/// refused it.
///
/// The id before the first is the last that the stream gave, not that of its newest entry: after trimming or
/// deleting that one is gone, and the link would skip what was lost. Nothing comes between entries of one call.
///
/// Entries beyond the number to keep go only when they have a certain age: a process that is briefly behind would
/// be overrun by a burst otherwise, and all its clients told of a gap.
///
/// `KEYS`: the stream. `ARGV`: how many entries to keep; how old they may be in milliseconds, or nothing; how old
/// they must be to go for their number; for each entry, how many fields and values it has together, and these.
pub const PUBLISH: &str = r"
local before = '0-0'
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then
  if not string.find(info.err, 'no such key', 1, true) then return info end
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then before = info[i + 1] end
  end
end
local ids, newest, at = {}, nil, 4
while at < #ARGV do
  local last = at + ARGV[at]
  local id = redis.pcall('XADD', KEYS[1], '*', 'p', before, unpack(ARGV, at + 1, last))
  if type(id) == 'string' then before, newest = id, id end
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
";

/// A worker is there: it and its subscribers are believed for a while.
///
/// `KEYS`: the workers; the worker's subscribers. `ARGV`: the worker; how long, in milliseconds.
pub const ALIVE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[2], ARGV[2])
";

/// Who is in a topic, at all workers that are believed to be there.
///
/// `KEYS`: the workers; what the keys of their subscribers begin with. `ARGV`: the topic.
pub const PRESENT: &str = r"
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
";
