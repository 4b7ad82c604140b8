// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>
#include <numeric>

namespace moot {

std::size_t draw(std::span<std::int64_t> pairs, std::span<const std::int64_t> weights) {
  std::size_t chosen = 0;
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    pairs[2 * i + 1] += weights[i];
    if (pairs[2 * i + 1] > pairs[2 * chosen + 1]) chosen = i;
  }
  pairs[2 * chosen] += 1;
  pairs[2 * chosen + 1] -= sum;
  return chosen;
}

namespace {

struct Open {
  std::int64_t key = -1;
  std::int64_t offset = 0;
  std::int64_t length = 0;
  std::int64_t document = 0;

  bool is_free() const { return key < 0 || offset >= length; }
  std::int64_t rest() const { return length - offset; }
};

// The cursor while it is being advanced; the table is written behind each whole step.
class Walk {
 public:
  Walk(const PlanLayout& layout, std::span<const std::int64_t> table,
       std::span<const std::int64_t> lane_lengths, std::span<const std::int64_t> weights,
       std::span<const Ahead> ahead)
      : layout_(layout),
        weights_(weights),
        ahead_(ahead),
        strands_(table.begin(), table.begin() + 2 * layout.num_streams * layout.num_strands),
        used_(ahead.size()),
        drawn_(ahead.size()),
        first_(ahead.size()) {
    for (std::size_t lane = 0; lane < lane_lengths.size(); ++lane) {
      const std::size_t at = strands_.size() + 2 * lane;
      open_.push_back({table[at], table[at + 1], lane_lengths[lane],
                       ~static_cast<std::int64_t>(lane)});
    }
    for (std::size_t i = 1; i < ahead.size(); ++i) {
      first_[i] = first_[i - 1] + static_cast<std::int64_t>(ahead[i - 1].key.size());
    }
  }

  std::span<Open> lanes(std::int64_t slot) {
    return std::span(open_).subspan(static_cast<std::size_t>(slot * layout_.lanes),
                                    static_cast<std::size_t>(layout_.lanes));
  }

  // Opens the next document of the slot's strand that holds a token; false when none is left.
  bool open_next(std::int64_t slot, Open& lane) {
    const auto strand = static_cast<std::size_t>(slot * layout_.num_strands / layout_.num_slots);
    const Ahead& ahead = ahead_[strand];
    while (used_[strand] < ahead.key.size()) {
      const std::size_t i = used_[strand]++;
      pass(strand, ahead.draw[i] + 1);
      if (ahead.length[i] <= 0) continue;
      lane = {ahead.key[i], 0, ahead.length[i], first_[strand] + static_cast<std::int64_t>(i)};
      return true;
    }
    return false;
  }

  void write(std::vector<std::int64_t>& tables) const {
    tables.insert(tables.end(), strands_.begin(), strands_.end());
    for (const Open& lane : open_) {
      tables.push_back(lane.is_free() ? -1 : lane.key);
      tables.push_back(lane.is_free() ? 0 : lane.offset);
    }
  }

 private:
  // Moves a strand's streams on until `num_draws` draws are done.
  void pass(std::size_t strand, std::int64_t num_draws) {
    const auto width = static_cast<std::size_t>(2 * layout_.num_streams);
    const std::span<std::int64_t> pairs = std::span(strands_).subspan(strand * width, width);
    for (; drawn_[strand] < num_draws; ++drawn_[strand]) draw(pairs, weights_);
  }

  const PlanLayout& layout_;
  std::span<const std::int64_t> weights_;
  std::span<const Ahead> ahead_;
  std::vector<std::int64_t> strands_;
  std::vector<Open> open_;
  std::vector<std::size_t> used_;
  std::vector<std::int64_t> drawn_;
  std::vector<std::int64_t> first_;
};

void take(Plan& plan, std::int64_t slot, Open& lane, std::int64_t most, std::int64_t target) {
  const std::int64_t length = std::min(most, lane.rest());
  plan.slot.push_back(slot);
  plan.document.push_back(lane.document);
  plan.offset.push_back(lane.offset);
  plan.length.push_back(length);
  plan.target.push_back(target);
  lane.offset += length;
}

bool fill(const PlanLayout& layout, Walk& walk, std::int64_t slot, Plan& plan) {
  std::int64_t target = 0;
  for (Open& lane : walk.lanes(slot)) {
    const std::int64_t end = target + layout.row_tokens;
    while (target < end) {
      if (lane.is_free() && !walk.open_next(slot, lane)) return false;
      take(plan, slot, lane, end - target, target);
      target += plan.length.back();
    }
  }
  return true;
}

bool offer(const PlanLayout& layout, Walk& walk, std::int64_t slot, Plan& plan) {
  const std::span<Open> lanes = walk.lanes(slot);
  for (std::int64_t i = 0; i < layout.num_candidates; ++i) {
    Open& lane = lanes[static_cast<std::size_t>(i % layout.lanes)];
    if (lane.is_free() && !walk.open_next(slot, lane)) return false;
    take(plan, slot, lane, layout.row_tokens, 0);
  }
  return true;
}

bool pad(const PlanLayout& layout, Walk& walk, std::int64_t slot, Plan& plan) {
  std::int64_t target = 0;
  for (Open& lane : walk.lanes(slot)) {
    if (lane.is_free() && !walk.open_next(slot, lane)) return false;
    take(plan, slot, lane, layout.row_tokens, target);
    target += layout.row_tokens;
  }
  return true;
}

// The row for a piece: the first with room, or the one with the least room left; -1 if none has.
std::int64_t find_row(std::span<const std::int64_t> room, std::int64_t length, bool best) {
  std::int64_t found = -1;
  for (std::size_t row = 0; row < room.size(); ++row) {
    if (room[row] < length) continue;
    if (!best) return static_cast<std::int64_t>(row);
    if (found < 0 || room[row] < room[static_cast<std::size_t>(found)]) {
      found = static_cast<std::int64_t>(row);
    }
  }
  return found;
}

// The lanes are a queue, oldest document first: each is offered to the rows once, and so is each document
// that takes a freed place. Whatever found no row waits for the next step and is first then.
bool fit(const PlanLayout& layout, Walk& walk, std::int64_t slot, Plan& plan) {
  const std::span<Open> lanes = walk.lanes(slot);
  std::vector<std::int64_t> room(static_cast<std::size_t>(layout.rows_per_slot), layout.row_tokens);
  std::vector<Open> waiting;
  const std::size_t first = plan.target.size();
  for (Open lane : lanes) {
    while (true) {
      if (lane.is_free() && !walk.open_next(slot, lane)) return false;
      const std::int64_t length = std::min(lane.rest(), layout.row_tokens);
      const std::int64_t row = find_row(room, length, layout.packing == Packing::best_fit);
      if (row < 0) break;
      std::int64_t& left = room[static_cast<std::size_t>(row)];
      take(plan, slot, lane, length, (row + 1) * layout.row_tokens - left);
      left -= length;
    }
    waiting.push_back(lane);
  }
  std::copy(waiting.begin(), waiting.end(), lanes.begin());
  // Row after row, as packing wants its targets.
  std::vector<std::size_t> order(plan.target.size() - first);
  std::iota(order.begin(), order.end(), first);
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return plan.target[a] < plan.target[b]; });
  for (auto* list : {&plan.document, &plan.offset, &plan.length, &plan.target}) {
    std::vector<std::int64_t> sorted;
    for (const std::size_t i : order) sorted.push_back((*list)[i]);
    std::copy(sorted.begin(), sorted.end(), list->begin() + static_cast<std::ptrdiff_t>(first));
  }
  return true;
}

bool plan_slot(const PlanLayout& layout, Walk& walk, std::int64_t slot, Plan& plan) {
  switch (layout.packing) {
    case Packing::contiguous: return fill(layout, walk, slot, plan);
    case Packing::offer: return offer(layout, walk, slot, plan);
    case Packing::pad: return pad(layout, walk, slot, plan);
    default: return fit(layout, walk, slot, plan);
  }
}

}  // namespace

Plan plan(const PlanLayout& layout, std::span<const std::int64_t> table,
          std::span<const std::int64_t> lane_lengths, std::span<const std::int64_t> weights,
          std::span<const Ahead> ahead, std::int64_t num_steps) {
  Plan plan;
  Walk walk(layout, table, lane_lengths, weights, ahead);
  for (std::int64_t step = 0; step < num_steps; ++step) {
    const std::size_t whole = plan.slot.size();
    for (std::int64_t slot = 0; slot < layout.num_slots; ++slot) {
      if (plan_slot(layout, walk, slot, plan)) continue;
      for (auto* list : {&plan.slot, &plan.document, &plan.offset, &plan.length, &plan.target}) {
        list->resize(whole);
      }
      return plan;
    }
    plan.step_end.push_back(static_cast<std::int64_t>(plan.slot.size()));
    walk.write(plan.tables);
  }
  return plan;
}

}  // namespace moot
