// SPDX-License-Identifier: Apache-2.0
#include "select.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>

namespace nb = nanobind;

namespace {

template <class T, int kDims>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;

void require(bool fits, const char* message) {
  if (!fits) throw std::invalid_argument(message);
}

/// The candidates' arrays, held alive, and the core's view of them.
struct BoundCandidates {
  Array<const float, 3> votes;
  Array<const float, 1> theta;
  Array<const std::int32_t, 2> lengths;
  Array<const std::int64_t, 2> ids;
  Array<const float, 1> shift, scale;

  BoundCandidates(Array<const float, 3> votes_, Array<const float, 1> theta_,
                  Array<const std::int32_t, 2> lengths_, Array<const std::int64_t, 2> ids_,
                  Array<const float, 1> shift_, Array<const float, 1> scale_)
      : votes(votes_), theta(theta_), lengths(lengths_), ids(ids_), shift(shift_), scale(scale_) {
    const std::size_t agents = votes.shape(2);
    require(theta.shape(0) == agents && shift.shape(0) == agents && scale.shape(0) == agents,
            "votes must be [S, C, A]; theta, shift and scale [A]");
    require(fits(lengths.shape(0), lengths.shape(1)) && fits(ids.shape(0), ids.shape(1)),
            "lengths and ids must be [S, C] like the votes");
    require(votes.shape(1) < std::size_t{1} << 31, "a row holds at most 2**31 - 1 candidates");
  }

  bool fits(std::size_t rows, std::size_t columns) const {
    return rows == votes.shape(0) && columns == votes.shape(1);
  }

  moot::Candidates view() const {
    const std::size_t agents = votes.shape(2);
    return {votes.data(),           lengths.data(),         ids.data(),
            votes.shape(1),         {theta.data(), agents}, {shift.data(), agents},
            {scale.data(), agents}};
  }
};

using Limits = std::optional<Array<const std::int64_t, 2>>;

/// The groups' arrays, held alive, and the core's view of them.
struct BoundQuotas {
  Array<const std::int32_t, 2> groups;
  Limits max_count, budget_tokens;

  BoundQuotas(Array<const std::int32_t, 2> groups_, Limits max_count_, Limits budget_tokens_)
      : groups(groups_), max_count(max_count_), budget_tokens(budget_tokens_) {
    require(max_count || budget_tokens, "quotas need max_count, budget_tokens or both");
    for (const Limits* limits : {&max_count, &budget_tokens}) {
      require(!*limits || ((*limits)->shape(0) == groups.shape(0) &&
                           (*limits)->shape(1) == num_groups()),
              "max_count and budget_tokens must be [S, G]");
    }
  }

  std::size_t num_groups() const {
    return max_count ? max_count->shape(1) : budget_tokens->shape(1);
  }

  moot::GroupQuotas view() const {
    return {groups.data(), max_count ? max_count->data() : nullptr,
            budget_tokens ? budget_tokens->data() : nullptr, num_groups()};
  }
};

moot::SelectRule make_rule(std::int64_t seed, double temperature, std::int64_t max_count,
                           std::int64_t budget_tokens, bool is_full) {
  require(max_count >= 0 && budget_tokens >= 0, "max_count and budget_tokens must be >= 0");
  return {seed, static_cast<float>(temperature), max_count, budget_tokens, is_full};
}

void run(const BoundCandidates& candidates, const BoundQuotas* quotas, const moot::SelectRule& rule,
         Array<std::int32_t, 2> order, Array<std::int32_t, 1> num_kept, Array<float, 2> scores,
         std::size_t start, std::size_t stop) {
  const std::size_t rows = candidates.votes.shape(0);
  require(candidates.fits(order.shape(0), order.shape(1)) &&
              candidates.fits(scores.shape(0), scores.shape(1)) && num_kept.shape(0) == rows,
          "order and scores must be [S, C], num_kept [S]");
  require(quotas == nullptr || candidates.fits(quotas->groups.shape(0), quotas->groups.shape(1)),
          "groups must be [S, C] like the votes");
  require(start <= stop && stop <= rows, "start and stop leave the rows");
  const moot::SelectOutput out{order.data(), num_kept.data(), scores.data()};
  const moot::GroupQuotas view = quotas == nullptr ? moot::GroupQuotas{} : quotas->view();
  nb::gil_scoped_release unlocked;
  moot::select_rows(candidates.view(), quotas == nullptr ? nullptr : &view, rule, out, start, stop);
}

}  // namespace

void bind_select(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<BoundCandidates>(m, "Candidates", "Views of the candidates' arrays.")
      .def(nb::init<Array<const float, 3>, Array<const float, 1>, Array<const std::int32_t, 2>,
                    Array<const std::int64_t, 2>, Array<const float, 1>, Array<const float, 1>>(),
           "votes"_a.noconvert(), "theta"_a.noconvert(), "lengths"_a.noconvert(),
           "ids"_a.noconvert(), "shift"_a.noconvert(), "scale"_a.noconvert());
  nb::class_<moot::SelectRule>(m, "SelectRule", "How candidates are drawn; limits are >= 0.")
      .def(nb::new_(&make_rule), "seed"_a, "temperature"_a, "max_count"_a, "budget_tokens"_a,
           "is_full"_a);
  nb::class_<BoundQuotas>(m, "GroupQuotas", "Views of what a row's groups may take at most.")
      .def(nb::init<Array<const std::int32_t, 2>, Limits, Limits>(), "groups"_a.noconvert(),
           "max_count"_a.none().noconvert(), "budget_tokens"_a.none().noconvert());
  m.def("select", &run, "candidates"_a, "quotas"_a.none(), "rule"_a, "order"_a.noconvert(),
        "num_kept"_a.noconvert(), "scores"_a.noconvert(), "start"_a, "stop"_a,
        "Order and keep the candidates of rows [start, stop), without the GIL, in this thread.");
}
