// SPDX-License-Identifier: Apache-2.0
#include "agent/process_message.h"

namespace caisson::agent {

using guest::v1::Process;

Process MessageOf(const oci::ProcessSpec& process) {
  Process message;
  message.set_terminal(process.terminal);
  message.set_console_width(process.console_width);
  message.set_console_height(process.console_height);
  message.set_uid(process.uid);
  message.set_gid(process.gid);
  message.mutable_additional_gids()->Add(process.additional_gids.begin(), process.additional_gids.end());
  message.set_username(process.username);
  message.set_gid_given(process.gid_given);
  message.set_strict_groups(process.strict_groups);
  if (process.umask) message.set_umask(*process.umask);
  for (const auto& arg : process.args) message.add_args(arg);
  for (const auto& variable : process.env) message.add_env(variable);
  message.set_cwd(process.cwd);
  if (const auto& sets = process.capabilities) {
    auto* capabilities = message.mutable_capabilities();
    capabilities->set_bounding(sets->bounding);
    capabilities->set_effective(sets->effective);
    capabilities->set_inheritable(sets->inheritable);
    capabilities->set_permitted(sets->permitted);
    capabilities->set_ambient(sets->ambient);
  }
  for (const auto& rlimit : process.rlimits) {
    auto* one = message.add_rlimits();
    one->set_resource(rlimit.resource);
    one->set_soft(rlimit.soft);
    one->set_hard(rlimit.hard);
  }
  message.set_no_new_privileges(process.no_new_privileges);
  if (process.oom_score_adj) message.set_oom_score_adj(*process.oom_score_adj);
  if (process.io_priority) {
    message.mutable_io_priority()->set_io_class(process.io_priority->io_class);
    message.mutable_io_priority()->set_priority(process.io_priority->priority);
  }
  if (const auto& from = process.scheduler) {
    auto* scheduler = message.mutable_scheduler();
    scheduler->set_policy(from->policy);
    scheduler->set_flags(from->flags);
    scheduler->set_nice(from->nice);
    scheduler->set_priority(from->priority);
    scheduler->set_runtime(from->runtime);
    scheduler->set_deadline(from->deadline);
    scheduler->set_period(from->period);
  }
  return message;
}

oci::ProcessSpec ProcessOf(const Process& message) {
  oci::ProcessSpec process;
  process.terminal = message.terminal();
  process.console_width = static_cast<uint16_t>(message.console_width());
  process.console_height = static_cast<uint16_t>(message.console_height());
  process.uid = message.uid();
  process.gid = message.gid();
  process.additional_gids.assign(message.additional_gids().begin(), message.additional_gids().end());
  process.username = message.username();
  process.gid_given = message.gid_given();
  process.strict_groups = message.strict_groups();
  if (message.has_umask()) process.umask = message.umask();
  process.args.assign(message.args().begin(), message.args().end());
  process.env.assign(message.env().begin(), message.env().end());
  process.cwd = message.cwd();
  if (message.has_capabilities()) {
    const auto& sets = message.capabilities();
    process.capabilities = oci::CapabilitySets{sets.bounding(), sets.effective(), sets.inheritable(), sets.permitted(), sets.ambient()};
  }
  for (const auto& rlimit : message.rlimits()) process.rlimits.push_back({rlimit.resource(), rlimit.soft(), rlimit.hard()});
  process.no_new_privileges = message.no_new_privileges();
  if (message.has_oom_score_adj()) process.oom_score_adj = message.oom_score_adj();
  if (message.has_io_priority()) process.io_priority = oci::IoPriority{message.io_priority().io_class(), message.io_priority().priority()};
  if (message.has_scheduler()) {
    const auto& from = message.scheduler();
    process.scheduler = oci::Scheduler{from.policy(), from.flags(), from.nice(), from.priority(), from.runtime(), from.deadline(), from.period()};
  }
  return process;
}

}  // namespace caisson::agent
