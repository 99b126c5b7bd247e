// SPDX-License-Identifier: Apache-2.0
#include "cli/timeline_view.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cli/output.h"

namespace caisson::cli {
namespace {

constexpr int kBarCells = 40;

// Steps of one operation on one subject that belong to one call.
struct Operation {
  std::string title;
  std::vector<TimelineStep> steps;
  int64_t begin = 0, end = 0;
};

std::vector<Operation> Group(std::vector<TimelineStep>& steps) {
  std::stable_sort(steps.begin(), steps.end(), [](const auto& a, const auto& b) { return a.begin_nanos < b.begin_nanos; });
  std::vector<Operation> operations;
  for (auto& step : steps) {
    std::string title = step.subject + ": " + step.operation;
    auto found = std::find_if(operations.rbegin(), operations.rend(), [&](const auto& o) { return o.title == title; });
    if (found == operations.rend()) {
      operations.push_back({title, {}, step.begin_nanos, step.end_nanos});
      found = operations.rbegin();
    }
    found->end = std::max(found->end, step.end_nanos);
    found->steps.push_back(std::move(step));
  }
  return operations;
}

std::string Escape(std::string_view text) {
  std::string out;
  for (char c : Printable(text)) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string Bar(const Operation& operation, const TimelineStep& step) {
  int64_t total = std::max<int64_t>(1, operation.end - operation.begin);
  auto cell = [&](int64_t at) { return static_cast<int>((at - operation.begin) * kBarCells / total); };
  int first = std::clamp(cell(step.begin_nanos), 0, kBarCells - 1);
  int last = std::clamp(cell(step.end_nanos), first + 1, kBarCells);
  return std::string(static_cast<size_t>(first), ' ') + std::string(static_cast<size_t>(last - first), '=');
}

}  // namespace

std::string FormatTimeline(std::vector<TimelineStep> steps) {
  std::string text;
  for (const auto& operation : Group(steps)) {
    text += fmt::format("{}  {}\n", Printable(operation.title), FormatDuration(operation.end - operation.begin));
    std::vector<std::vector<std::string>> rows;
    for (const auto& step : operation.steps) {
      rows.push_back({"  " + step.name, "+" + FormatDuration(step.begin_nanos - operation.begin),
                      FormatDuration(step.end_nanos - step.begin_nanos), "|" + Bar(operation, step),
                      step.error.empty() ? "" : "failed: " + step.error});
    }
    text += FormatTable(rows);
  }
  return text;
}

std::string TraceTimeline(std::vector<TimelineStep> steps, const std::string& title) {
  Json events = Json::array();
  std::vector<std::string> subjects;
  auto track = [&](const std::string& subject) {
    auto found = std::find(subjects.begin(), subjects.end(), subject);
    size_t number = static_cast<size_t>(found - subjects.begin()) + 1;
    if (found == subjects.end()) {
      subjects.push_back(subject);
      events.push_back({{"name", "thread_name"}, {"ph", "M"}, {"pid", 1}, {"tid", number}, {"args", {{"name", Printable(subject)}}}});
    }
    return number;
  };
  // Complete events, in microseconds.
  auto add = [&](const std::string& subject, const std::string& name, int64_t begin, int64_t end, const std::string& error) {
    Json event = {{"name", Printable(name)}, {"ph", "X"}, {"pid", 1}, {"tid", track(subject)},
                  {"ts", static_cast<double>(begin) / 1000}, {"dur", static_cast<double>(end - begin) / 1000}};
    if (!error.empty()) event["args"] = {{"error", Printable(error)}};
    events.push_back(std::move(event));
  };
  events.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", 1}, {"args", {{"name", Printable(title)}}}});
  for (const auto& operation : Group(steps)) {
    const TimelineStep& first = operation.steps.front();
    add(first.subject, first.operation, operation.begin, operation.end, "");
    for (const auto& step : operation.steps) add(step.subject, step.name, step.begin_nanos, step.end_nanos, step.error);
  }
  return DumpJson({{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}});
}

std::string DrawTimeline(std::vector<TimelineStep> steps, const std::string& title) {
  constexpr int kWidth = 900, kLabel = 260, kRow = 20;
  constexpr const char* kColours[] = {"#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#76b7b2"};
  auto operations = Group(steps);
  std::string body;
  int y = 40;
  size_t colour = 0;
  for (const auto& operation : operations) {
    int64_t total = std::max<int64_t>(1, operation.end - operation.begin);
    body += fmt::format("<text x=\"8\" y=\"{}\" font-weight=\"bold\">{}: {}</text>\n", y + 14, Escape(operation.title), FormatDuration(total));
    y += kRow;
    for (const auto& step : operation.steps) {
      double scale = static_cast<double>(kWidth - kLabel - 20) / static_cast<double>(total);
      double x = kLabel + static_cast<double>(step.begin_nanos - operation.begin) * scale;
      double width = std::max(1.0, static_cast<double>(step.end_nanos - step.begin_nanos) * scale);
      body += fmt::format("<text x=\"20\" y=\"{}\">{}  {}</text><rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"14\" fill=\"{}\"/>\n",
                          y + 14, Escape(step.name), FormatDuration(step.end_nanos - step.begin_nanos), x, y + 3, width,
                          step.error.empty() ? kColours[colour % std::size(kColours)] : "#e15759");
      y += kRow;
    }
    ++colour;
  }
  return fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n"
                     "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"8\" y=\"22\" font-size=\"16\">{}</text>\n{}</svg>\n",
                     kWidth, y + 10, Escape(title), body);
}

}  // namespace caisson::cli
