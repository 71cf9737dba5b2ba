// SPDX-License-Identifier: Apache-2.0
/// @file made_from.hpp
/// @brief MadeFrom: whether a module can be made from an argument, asked of the module behind a holder.
#pragma once

#include <concepts>

namespace htl::inline v0_1_0 {

namespace detail {

template <class Holder>
struct ModuleBehind {
  using Type = Holder;
};
template <class Holder>
  requires requires { typename Holder::ContainedType; }
struct ModuleBehind<Holder> {
  using Type = typename Holder::ContainedType;
};

}  // namespace detail

/// @brief What is made from an `Argument`. LibTorch's holders (TORCH_MODULE) claim to be constructible from anything, so their module is asked.
template <class Holder, class Argument>
concept MadeFrom = std::constructible_from<typename detail::ModuleBehind<Holder>::Type, Argument>;

}  // namespace htl
