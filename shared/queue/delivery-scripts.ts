/**
 * The two steps that Redis does by itself: adding deliveries, and telling which are missing. They write and read what
 * BullMQ 6.7 keeps of a queue:
 *
 *   <prefix>:<queue>:wait     list of ids that wait, newest at the left
 *   <prefix>:<queue>:active   list of ids that were taken
 *   <prefix>:<queue>:marker   sorted set on which idle workers block
 *   <prefix>:<queue>:meta     hash of settings
 *   <prefix>:<queue>:<id>     hash: the entry, a delivery or a bundle of some (bundles.ts)
 *
 * BullMQ's own `addBulk` sends one script call per job, with everything that delays, priorities, parents and
 * deduplication need: a third of all that dispatching cost, on both sides. Ours adds hundreds in one call. The version of
 * BullMQ is pinned, and deliveries.test.ts holds the outcome against what `Queue.add` itself leaves behind.
 */

import { noData } from './bundles.ts';

/**
 * A bundle that stands in no list (Redis evicts keys, and the list was one of them) is nobody's: only the list knew its id. Of one that
 * expired in its list the deliveries are missing, and are added again; whoever takes its id drops it.
 */
const bundleExpiryMs = 24 * 3_600_000;

/**
 * Adds those that are not there, in their order. What is taken next stands at the right: LPUSH lines them up behind all that wait,
 * RPUSH, with the first one last, before them.
 * KEYS: wait, meta, marker. ARGV: what the keys of entries begin with, time in ms, options as JSON, LPUSH or RPUSH, and of each
 * entry the id and data.
 */
export const addScript = `
local added = {}
for index = 5, #ARGV, 2 do
  local entry, data = ARGV[1] .. ARGV[index], ARGV[index + 1]
  if redis.call('EXISTS', entry) == 0 then
    redis.call('HSET', entry, 'name', 'd', 'data', data, 'opts', ARGV[3], 'timestamp', ARGV[2], 'delay', 0, 'priority', 0)
    if data ~= '${noData}' then redis.call('PEXPIRE', entry, ${bundleExpiryMs}) end
    added[#added + 1] = ARGV[index]
  end
end
if #added == 0 then return 0 end
redis.call('HSETNX', KEYS[2], 'opts.maxLenEvents', 100)
redis.call(ARGV[4], KEYS[1], unpack(added))
redis.call('ZADD', KEYS[3], 0, '0')
return #added`;

/** Options of every delivery: one attempt, gone when it ended. As BullMQ keeps them. */
export const entryOptions = JSON.stringify({ attempts: 1, removeOnComplete: true, removeOnFail: true });

/**
 * Which deliveries no worker would find? A delivery is an entry of its own and its id in a list; a Redis that evicts keys may
 * lose one of the two. An entry without its place has to go: adding it again would be refused as a repetition. One step,
 * because several workers may repair at once.
 * KEYS: wait, active. ARGV: what the keys of entries begin with, ids. Answers the ids to add again.
 */
export const missingScript = `
local listed, bundled = {}, {}
for _, list in ipairs(KEYS) do
  for _, id in ipairs(redis.call('LRANGE', list, 0, -1)) do
    listed[id] = true
    if string.sub(id, 1, 2) == 'b_' then
      local data = redis.pcall('HGET', ARGV[1] .. id, 'data')
      local isJson, ids = pcall(cjson.decode, type(data) == 'string' and data or '')
      for _, each in ipairs(isJson and type(ids) == 'table' and ids or {}) do
        if type(each) == 'string' then bundled[each] = true end
      end
    end
  end
end
local missing = {}
for index = 2, #ARGV do
  local entry = ARGV[1] .. ARGV[index]
  if bundled[ARGV[index]] then
    -- It has no entry of its own.
  elseif redis.call('EXISTS', entry) == 0 then
    missing[#missing + 1] = ARGV[index]
  elseif not listed[ARGV[index]] then
    redis.call('DEL', entry)
    missing[#missing + 1] = ARGV[index]
  end
end
return missing`;
