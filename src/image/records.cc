// SPDX-License-Identifier: Apache-2.0
#include "image/records.h"

#include <nlohmann/json.hpp>

#include "image/digest.h"

namespace caisson::image {
namespace {

Error Damaged(const std::string& id) { return MakeError(Code::kDataLoss, "the record of '{}' is damaged", id.substr(0, 128)); }

bool Get(const Json& json, const char* key, std::string* value) {
  auto found = json.find(key);
  if (found == json.end() || !found->is_string()) return false;
  *value = found->get<std::string>();
  return true;
}
bool Get(const Json& json, const char* key, std::vector<std::string>* value) {
  auto found = json.find(key);
  if (found == json.end() || !found->is_array()) return false;
  for (const auto& item : *found) {
    if (!item.is_string()) return false;
    value->push_back(item.get<std::string>());
  }
  return true;
}
template <class Number>
bool GetNumber(const Json& json, const char* key, Number* value) {
  auto found = json.find(key);
  if (found == json.end() || !found->is_number_integer()) return false;
  *value = found->get<Number>();
  return true;
}

}  // namespace

Json ToJson(const ImageRecord& record) {
  Json json = {{"root", record.root_digest}, {"manifest", record.manifest_digest}, {"config", record.config_bytes}, {"chain", record.chain},
               {"blobs", record.blobs}, {"size", record.size_bytes}, {"pulled_at", record.pulled_at_nanos}};
  if (!record.artifact_type.empty()) json["artifact"] = record.artifact_type;
  return json;
}

Json ToJson(const LayerRecord& record) {
  return {{"folder", record.folder}, {"boot", record.boot_id}, {"bytes", record.bytes}, {"inodes", record.inodes}, {"synced", record.synced ? 1 : 0}};
}

Json ToJson(const SnapshotRecord& record) {
  Json json = {{"image", record.image_id}, {"chain", record.chain}};
  if (record.view) json["view"] = true;
  return json;
}

Result<ImageRecord> ImageFromJson(const std::string& id, const Json& json) {
  ImageRecord record;
  record.id = id;
  bool whole = json.is_object() && Get(json, "root", &record.root_digest) && Get(json, "manifest", &record.manifest_digest) && Get(json, "config", &record.config_bytes) &&
               Get(json, "chain", &record.chain) && Get(json, "blobs", &record.blobs) && GetNumber(json, "size", &record.size_bytes) &&
               GetNumber(json, "pulled_at", &record.pulled_at_nanos);
  if (!whole || (json.contains("artifact") && !Get(json, "artifact", &record.artifact_type))) return Damaged(id);
  return record;
}

Result<LayerRecord> LayerFromJson(const std::string& id, const Json& json) {
  LayerRecord record;
  record.chain_id = id;
  int synced = 0;
  bool whole = json.is_object() && Get(json, "folder", &record.folder) && Get(json, "boot", &record.boot_id) && GetNumber(json, "bytes", &record.bytes) &&
               GetNumber(json, "inodes", &record.inodes) && GetNumber(json, "synced", &synced);
  if (!whole) return Damaged(id);
  record.synced = synced != 0;
  return record;
}

Result<SnapshotRecord> SnapshotFromJson(const std::string& id, const Json& json) {
  SnapshotRecord record;
  record.key = id;
  if (!json.is_object() || !Get(json, "image", &record.image_id) || !Get(json, "chain", &record.chain)) return Damaged(id);
  record.view = json.value("view", Json(false)) == Json(true);
  return record;
}

std::vector<std::string> ChainIds(const std::vector<std::string>& diff_ids) {
  std::vector<std::string> chain;
  for (const auto& diff_id : diff_ids) chain.push_back(chain.empty() ? diff_id : Sha256Digest(chain.back() + " " + diff_id));
  return chain;
}

}  // namespace caisson::image
