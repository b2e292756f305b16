"""Lua scripts: each runs at the server in one step, so a crash leaves all of it or nothing.

An entry of a consumer is in one of these places; each arrow is one script or one command:

    topic or again --XREADGROUP--> pending of a process --XACK--> gone
        ^                |  ^                |------MOVE--> later + due --PROMOTE--> again
        |                |  '--CLAIM--.      '------MOVE--> dead --REDRIVE--> again
        |                '--LEAVE or PARK--> pending of nobody

A script that raises half-way leaves what it has done so far. So each first writes the copy and then
takes the original away: what a full or misused key refuses is refused before anything is lost.

The delivery count of a pending entry is its attempt: what is parked is counted back by one, and who
claims counts on. Entries of `again`, `later` and `dead` begin with bookkeeping of ours (see
`_entries`), behind which the original fields follow as they came.
"""

from __future__ import annotations

from hashlib import sha1

from events.integration.brokering.dead_letters import NAMES

NOBODY = "nobody"
"""The consumer id of returned entries, which any process may take."""

_HEADS = 500  # dead letters, which are read while the server does nothing else
_LONG_AGO = 10**12  # milliseconds of idleness, beyond every lease


class Script:
    """A Lua script and the digest that the server knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()


# KEYS: stream, target, due. ARGV: group, me, id, delay in ms or -1 for a target without due times,
# 1 if the stream is ours to delete from, the target's fields.
# 0: it was not mine any more. NOGROUP: the copy is kept, as its owner is unknown.
MOVE = Script("""
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if not pending.err and (#pending == 0 or pending[1][2] ~= ARGV[2]) then return 0 end
local id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 6))
if tonumber(ARGV[4]) >= 0 then
  local now = redis.call('TIME')
  local due = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[4]) + 1
  redis.call('ZADD', KEYS[3], string.format('%.0f', due), id)
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
return 1
""")

# KEYS: stream. ARGV: group. Entries that were not read, pending ones, and the age in ms of the
# oldest of the former, -1 if there is none. A server before 7.0 does not know the first, and a
# later one does not where entries were deleted: then they are counted.
BACKLOG = Script("""
local function named(fields)
  local by_name = {}
  for i = 1, #fields, 2 do by_name[fields[i]] = fields[i + 1] end
  return by_name
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return {0, 0, -1, 0} end
for _, fields in ipairs(groups) do
  local group = named(fields)
  if group.name == ARGV[1] then
    local after = '(' .. group['last-delivered-id']
    local first = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)
    local waiting, age = 0, -1
    if #first > 0 then
      local now = redis.call('TIME')
      local sent = tonumber(first[1][1]:match('^%d+'))
      age = math.max(now[1] * 1000 + math.floor(now[2] / 1000) - sent, 0)
      waiting = group.lag or #redis.call('XRANGE', KEYS[1], after, '+')
    end
    -- Unknown after some removals, though what was ever added is known. Before 7.0, neither is.
    local read = group['entries-read']
    if not read then
      local added = named(redis.call('XINFO', 'STREAM', KEYS[1]))['entries-added']
      read = added and added - waiting
    end
    return {waiting, group.pending, age, read and read - group.pending or -1}
  end
end
return {0, 0, -1, 0}
""")

# KEYS: again. ARGV: group, ids.
DONE_AGAIN = Script("""
redis.call('XACK', KEYS[1], unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
""")

# KEYS: due, later, again. ARGV: how many. Returns ms until the next is due, or -1.
PROMOTE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
  if entry then
    redis.call('XADD', KEYS[3], '*', unpack(entry[2]))
    redis.call('XDEL', KEYS[2], id)
  end
  redis.call('ZREM', KEYS[1], id)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[1] then return -1 end
return math.max(0, tonumber(first[2]) - now)
""")

# KEYS: streams. ARGV: group, me, lease in ms, how many, how many of dead processes, 1 for my own,
# how many bytes: one more entry may go beyond.
# What no consumer holds comes as it was; what a dead process held has one delivery more; my own,
# whose answer was lost on the way, is as it was, and comes only if it is asked for: else it may be
# in an answer that is on its way. Entries that a stream has lost are let go and counted.
# Returns, for each stream, {entries as {id, fields, delivery count, 1 if a dead process's}, lost,
# 1 if there may be more}.
CLAIM = Script(
    """
local group, me = ARGV[1], ARGV[2]
local room, deads, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
local function claim(stream)
  local pending
  if ARGV[6] == '1' then
    pending = redis.call('XPENDING', stream, group, '-', '+', 10000, me)
  else
    pending = redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], '-', '+', 1000)
  end
  local taken, lost, more = {}, 0, 0
  for _, entry in ipairs(pending) do
    local id, owner, count = entry[1], entry[2], entry[4]
    local dead = 0
    if owner ~= me then count = count + 1 end
    if owner ~= me and owner ~= '"""
    + NOBODY
    + """' then dead = 1 end
    local asked = owner ~= me or ARGV[6] == '1'
    if asked and room > 0 and bytes > 0 and (dead == 0 or deads > 0) then
      local claimed = redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', count)[1]
      if claimed and claimed[2] then
        taken[#taken + 1] = {id, claimed[2], count, dead}
        room = room - 1
        for _, field in ipairs(claimed[2]) do bytes = bytes - #field end
        deads = deads - dead
      else
        redis.call('XACK', stream, group, id)
        lost = lost + 1
      end
    elseif asked then
      more = 1
    end
  end
  return {taken, lost, more}
end
local claimed = {}
for i, stream in ipairs(KEYS) do claimed[i] = claim(stream) end
return claimed
"""
)

# KEYS: stream. ARGV: group, me, ids. Returns the ids that are not mine any more.
RENEW = Script("""
local gone = {}
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
""")

_GIVE_BACK = f"""
local function give_back(stream, group, id, count)
  redis.call('XCLAIM', stream, group, '{NOBODY}', 0, id,
    'IDLE', '{_LONG_AGO}', 'RETRYCOUNT', math.max(0, count - 1), 'JUSTID')
end
"""

# KEYS: stream. ARGV: group, me, id.
PARK = Script(
    _GIVE_BACK
    + """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if pending and pending[2] == ARGV[2] then give_back(KEYS[1], ARGV[1], ARGV[3], pending[4]) end
return 1
"""
)

# KEYS: streams. ARGV: group, me. Gives back all that is mine, and forgets me.
LEAVE = Script(
    _GIVE_BACK
    + """
for _, stream in ipairs(KEYS) do
  local mine = redis.pcall('XPENDING', stream, ARGV[1], '-', '+', 100000, ARGV[2])
  if not mine.err then
    for _, entry in ipairs(mine) do give_back(stream, ARGV[1], entry[1], entry[4]) end
    if #redis.call('XPENDING', stream, ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], ARGV[2])
    end
  end
end
return 1
"""
)

# KEYS: stream. ARGV: group, ms of silence. Forgets consumer ids that hold nothing and are silent.
SWEEP = Script(f"""
local swept = 0
if redis.call('EXISTS', KEYS[1]) == 0 then return swept end
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local it = {{}}
  for i = 1, #info, 2 do it[info[i]] = info[i + 1] end
  if it.pending == 0 and (it.idle > tonumber(ARGV[2]) or it.name == '{NOBODY}') then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], it.name)
    swept = swept + 1
  end
end
return swept
""")

# KEYS: topic. ARGV: ms to keep what all groups have passed, how many may be removed one by one.
# Removes what no group needs any more: up to the first entry that one needs, at little cost; beyond
# it one by one, as a full server needs where it has no room to put that entry elsewhere.
TRIM = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function lower(a, b)
  if not a then return b end
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq) then return a end
  return b
end
local floor, passed
local left, held = tonumber(ARGV[2]), {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local it = {}
  for i = 1, #info, 2 do it[info[i]] = info[i + 1] end
  passed = lower(passed, it['last-delivered-id'])
  if it.pending > 0 then
    floor = lower(floor, redis.call('XPENDING', KEYS[1], it.name)[2])
    if left > 0 then
      local pending = redis.call('XPENDING', KEYS[1], it.name, '-', '+', 10000)
      for _, entry in ipairs(pending) do held[entry[1]] = true end
      if #pending == 10000 then passed = lower(passed, pending[10000][1]) end
    end
  end
end
if not passed then return 0 end
if tonumber(ARGV[1]) > 0 then
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1])
  if ms < 0 then return 0 end
  passed = lower(passed, string.format('%.0f-0', ms))
end
floor = lower(floor, passed)
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', floor, 'LIMIT', 0)
local start = floor
while left > 0 do
  local entries = redis.call('XRANGE', KEYS[1], start, passed, 'COUNT', 16)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    if not held[entry[1]] then removed = removed + redis.call('XDEL', KEYS[1], entry[1]) end
    left = left - 1
    start = '(' .. entry[1]
  end
end
return removed
""")

# KEYS: dead. ARGV: first id, how many bytes of entries, or a few more. Returns a list for each: its
# id and the values of its metadata; or its id and a list of all its fields, if it begins with none.
# And 1 if there may be more.
HEADS = Script(
    f"local room, last = {_HEADS}, {2 * len(NAMES)}"
    """
local heads, bytes, start = {}, tonumber(ARGV[2]), ARGV[1]
while room > 0 and bytes > 0 do
  local entries = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', 10)
  for _, entry in ipairs(entries) do
    local head, fields = {entry[1]}, entry[2]
    if fields[1] == 'events-id' then
      for i = 2, last, 2 do head[#head + 1] = fields[i] or '' end
    else
      head[2] = fields
    end
    heads[#heads + 1] = head
    for _, field in ipairs(fields) do bytes = bytes - #field end
  end
  if #entries < 10 then return {heads, 0} end
  room = room - 10
  start = '(' .. entries[10][1]
end
return {heads, 1}
"""
)

# KEYS: dead, again. ARGV: id. Keeps only the id of its metadata, and resets the count of attempts.
REDRIVE = Script(
    f"local first = {2 * len(NAMES) + 1}"
    """
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
local fields = entry[2]
redis.call('XADD', KEYS[2], '*', fields[1], fields[2], fields[3], '0', unpack(fields, first))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""
)
