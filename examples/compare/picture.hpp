// SPDX-License-Identifier: Apache-2.0
/// @file picture.hpp
/// @brief Pictures as SVG: points with their Pareto front, and learning curves.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace compare {

/// @brief A text within HTML and SVG.
inline std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : std::string(1, c);
  return result;
}

/// @brief What a picture shows: points on their own, or one line a series.
struct Picture {
  struct Series {
    int64_t number = 0;  ///< of the kind, as in the tables
    std::string label;
    std::vector<std::pair<double, double>> points;
    bool is_on_front = false;
  };
  std::string title = {}, x_label = {}, y_label = {};
  bool x_greater_is_better = true, y_greater_is_better = true;  ///< an axis on which less is better runs backwards: better is always up and right
  bool is_curves = false;                                       ///< lines; x then runs forwards
  std::vector<Series> series = {};
};

namespace detail {

inline constexpr std::array<const char*, 8> colours = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000"};

/// A number as short as its axis needs it.
inline std::string tick_text(double value, double step) {
  char text[40];
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 8);
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

/// One axis: from data to pixels, and its ticks.
class Axis {
 public:
  Axis(std::vector<double> values, double begin, double end, bool backwards) : begin_(begin), end_(end) {
    low_ = values.empty() ? 0.0 : *std::min_element(values.begin(), values.end());
    high_ = values.empty() ? 1.0 : *std::max_element(values.begin(), values.end());
    const double most = std::max(std::abs(low_), std::abs(high_));
    // values that differ by their last bits only: a step of the ticks must be more than that
    const double margin = high_ > low_ ? std::max({0.06 * (high_ - low_), 1e-9 * most, 1e-290}) : std::max(1e-3, 0.05 * most);
    low_ -= margin;
    high_ += margin;
    const double rough = (high_ - low_) / 5.0, power = std::pow(10.0, std::floor(std::log10(rough)));
    step_ = power * (rough / power < 1.5 ? 1.0 : rough / power < 3.5 ? 2.0 : rough / power < 7.5 ? 5.0 : 10.0);
    if (backwards) std::swap(begin_, end_);
  }
  double operator()(double value) const { return begin_ + (value - low_) / (high_ - low_) * (end_ - begin_); }
  std::vector<double> ticks() const {
    std::vector<double> result;
    for (double tick = std::ceil(low_ / step_) * step_; tick <= high_; tick += step_) result.push_back(tick);
    return result;
  }
  double step() const { return step_; }

 private:
  double begin_, end_, low_ = 0.0, high_ = 1.0, step_ = 1.0;
};

}  // namespace detail

/// @brief The picture as an SVG element, with a legend of numbers below it left to the tables.
inline std::string svg_of(const Picture& picture) {
  constexpr double width = 640, height = 420, left = 70, right = 620, top = 40, bottom = 365;
  std::vector<double> xs, ys;
  for (const Picture::Series& series : picture.series)
    for (const auto& [x, y] : series.points) {
      xs.push_back(x);
      ys.push_back(y);
    }
  const detail::Axis x_axis(xs, left, right, !picture.x_greater_is_better && !picture.is_curves), y_axis(ys, bottom, top, !picture.y_greater_is_better);
  std::string svg;
  char text[400];
  const auto add = [&](const char* format, auto... values) {
    std::snprintf(text, sizeof(text), format, values...);
    svg += text;
  };
  add("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\">", width, height);
  svg += "<title>" + escaped(picture.title) + "</title><text x=\"" + std::to_string(static_cast<int>(left)) +
         "\" y=\"20\" font-size=\"14\" font-weight=\"bold\">" + escaped(picture.title) + "</text>";
  for (const double tick : x_axis.ticks()) {
    if (picture.is_curves && tick != std::round(tick)) continue;
    add("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e6e6e6\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"#444\">%s</text>",
        x_axis(tick), x_axis(tick), top, bottom, x_axis(tick), bottom + 16, detail::tick_text(tick, picture.is_curves ? 1.0 : x_axis.step()).c_str());
  }
  for (const double tick : y_axis.ticks())
    add("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e6e6e6\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" fill=\"#444\">%s</text>",
        left, right, y_axis(tick), y_axis(tick), left - 6, y_axis(tick) + 4, detail::tick_text(tick, y_axis.step()).c_str());
  svg += "<text x=\"345\" y=\"402\" text-anchor=\"middle\">" + escaped(picture.x_label) +
         "</text><text transform=\"translate(14 202) rotate(-90)\" text-anchor=\"middle\">" + escaped(picture.y_label) + "</text>";

  std::vector<std::pair<double, double>> front;
  for (const Picture::Series& series : picture.series)
    if (series.is_on_front && !series.points.empty()) front.emplace_back(x_axis(series.points[0].first), y_axis(series.points[0].second));
  std::sort(front.begin(), front.end());
  std::string path;
  for (const auto& [x, y] : front) {
    std::snprintf(text, sizeof(text), "%.1f,%.1f ", x, y);
    path += text;
  }
  if (front.size() > 1) svg += "<polyline points=\"" + path + "\" fill=\"none\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>";

  for (size_t s = 0; s < picture.series.size(); ++s) {
    const Picture::Series& series = picture.series[s];
    if (series.points.empty()) continue;
    const char* const colour = detail::colours[s % detail::colours.size()];
    svg += "<g><title>" + std::to_string(series.number) + " " + escaped(series.label) + "</title>";
    path.clear();
    for (const auto& [x, y] : series.points) {
      add("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"/>", x_axis(x), y_axis(y), picture.is_curves ? 2.5 : 5.0, colour);
      std::snprintf(text, sizeof(text), "%.1f,%.1f ", x_axis(x), y_axis(y));
      path += text;
    }
    if (picture.is_curves) svg += "<polyline points=\"" + path + "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"1.6\"/>";
    const auto& [x, y] = series.points.back();
    add("<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%lld</text></g>", x_axis(x) + 8, y_axis(y) + 4, colour, static_cast<long long>(series.number));
  }
  return svg + "</svg>";
}

}  // namespace compare
