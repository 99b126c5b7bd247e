// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/rpc.h"
#include "cri/verbose.h"

namespace caisson::cri {

v1::ContainerStatus ContainerStatusOf(const ContainerRecord& record) {
  v1::ContainerStatus status;
  status.set_id(record.id());
  *status.mutable_metadata() = record.config().metadata();
  status.set_state(record.state());
  status.set_created_at(record.created_at_nanos());
  status.set_started_at(record.started_at_nanos());
  status.set_finished_at(record.finished_at_nanos());
  status.set_exit_code(record.exit_code());
  *status.mutable_image() = record.config().image();
  if (!record.image_name().empty()) status.mutable_image()->set_image(record.image_name());
  status.set_image_ref(record.image_ref());
  status.set_image_id(record.image_id());
  status.set_reason(record.reason());
  status.set_message(record.message());
  *status.mutable_labels() = record.config().labels();
  *status.mutable_annotations() = record.config().annotations();
  *status.mutable_mounts() = record.config().mounts();
  status.set_log_path(record.log_path());
  *status.mutable_resources()->mutable_linux() = record.resources();
  if (record.has_user()) *status.mutable_user()->mutable_linux() = record.user();
  v1::Signal stop_signal;
  if (v1::Signal_Parse(record.stop_signal(), &stop_signal)) status.set_stop_signal(stop_signal);
  return status;
}

Result<v1::ContainerStatusResponse> ContainerStatus(Context& context, const v1::ContainerStatusRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  auto record = container->Get();
  v1::ContainerStatusResponse response;
  *response.mutable_status() = ContainerStatusOf(*record);
  if (request.verbose()) {
    (*response.mutable_info())["info"] = ContainerInfoJson(*record, context.config.ContainerDir(record->id()));
    (*response.mutable_info())["timeline"] = TimelineJson(record->timeline());
  }
  return response;
}

}  // namespace caisson::cri
