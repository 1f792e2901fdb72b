/* A stand-in for libtritonserver: every function of include/triton_abi.h over
 * plain bookkeeping, with faults on demand; those of metrics, which a host may
 * lack, only for tests/fake_metrics.rs.
 *
 * tests/host/mod.rs compiles it, opens it RTLD_LOCAL as in-process hosts do, and
 * drives it through the fake_* functions. It keeps the rules that Triton only
 * documents: an object that is used after its end, ended twice, or of the wrong
 * kind is a misuse, counted and never followed. So is a second FINAL, a response
 * after FINAL, and statistics that are zero, run backwards or come after the
 * release.
 *
 * Here is what is called of errors, messages, the log, backends, models and
 * instances; requests and responses are in fake_requests.c, metrics in
 * fake_metrics.c, the test's side in fake_control.c, the bookkeeping in fake.c.
 */
#include "fake.h"

/* ---- errors, messages, log ---- */

TRITONSERVER_Error *TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char *msg) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *error = new_error(code, msg);
  pthread_mutex_unlock(&lock);
  return error;
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_ErrorDelete", error, KIND_ERROR);
  pthread_mutex_unlock(&lock);
}

TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error_Code code =
      is_live("TRITONSERVER_ErrorCode", error, KIND_ERROR) ? error->code : TRITONSERVER_ERROR_UNKNOWN;
  pthread_mutex_unlock(&lock);
  return code;
}

const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  const char *text = is_live("TRITONSERVER_ErrorMessage", error, KIND_ERROR) ? error->text : NULL;
  pthread_mutex_unlock(&lock);
  return text;
}

TRITONSERVER_Error *TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message **message,
                                                              const char *base, size_t byte_size) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_MessageNewFromSerializedJson");
  if (due == NULL) {
    *message = begin(KIND_MESSAGE, sizeof **message);
    (*message)->text = copy(base, byte_size);
  }
  pthread_mutex_unlock(&lock);
  return due;
}

TRITONSERVER_Error *TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *message,
                                                        const char **base, size_t *byte_size) {
  ENTER(TRITONSERVER_MessageSerializeToJson, message, KIND_MESSAGE);
  *base = message->text;
  *byte_size = strlen(message->text);
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_MessageDelete(TRITONSERVER_Message *message) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_MessageDelete", message, KIND_MESSAGE);
  pthread_mutex_unlock(&lock);
  return NULL;
}

bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level) {
  return verbose || level == TRITONSERVER_LOG_ERROR || level == TRITONSERVER_LOG_WARN;
}

TRITONSERVER_Error *TRITONSERVER_LogMessage(TRITONSERVER_LogLevel level, const char *filename,
                                            const int line, const char *msg) {
  if (verbose) fprintf(stderr, "%c %s:%d] %s\n", "IWEV"[level & 3], filename, line, msg);
  return NULL;
}

static TRITONBACKEND_Model *find_model(const char *name) {
  for (object *head = objects; head != NULL; head = head->next) {
    TRITONBACKEND_Model *model = (TRITONBACKEND_Model *)head;
    if (head->kind == KIND_MODEL && head->state == ALIVE && strcmp(model->name, name) == 0) return model;
  }
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_ServerModelIsReady(TRITONSERVER_Server *asked, const char *model_name,
                                                    const int64_t model_version, bool *ready) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_ServerModelIsReady");
  if (asked != &server || model_version != 1) misuse("TRITONSERVER_ServerModelIsReady: of another model");
  if (due == NULL) {
    TRITONBACKEND_Model *model = find_model(model_name);
    *ready = model != NULL && model->ready;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* ---- memory ---- */

TRITONSERVER_Error *TRITONSERVER_BufferAttributesNew(TRITONSERVER_BufferAttributes **attributes) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_BufferAttributesNew");
  if (due == NULL) *attributes = begin(KIND_ATTRIBUTES, sizeof **attributes);
  pthread_mutex_unlock(&lock);
  return due;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesDelete(TRITONSERVER_BufferAttributes *attributes) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_BufferAttributesDelete", attributes, KIND_ATTRIBUTES);
  pthread_mutex_unlock(&lock);
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetMemoryType(TRITONSERVER_BufferAttributes *attributes,
                                                               TRITONSERVER_MemoryType memory_type) {
  ENTER(TRITONSERVER_BufferAttributesSetMemoryType, attributes, KIND_ATTRIBUTES);
  attributes->memory = memory_type;
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetMemoryTypeId(TRITONSERVER_BufferAttributes *attributes,
                                                                 int64_t memory_type_id) {
  ENTER(TRITONSERVER_BufferAttributesSetMemoryTypeId, attributes, KIND_ATTRIBUTES);
  attributes->id = memory_type_id;
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetByteSize(TRITONSERVER_BufferAttributes *attributes,
                                                             size_t byte_size) {
  ENTER(TRITONSERVER_BufferAttributesSetByteSize, attributes, KIND_ATTRIBUTES);
  attributes->n_bytes = byte_size;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelReportMemoryUsage(TRITONBACKEND_Model *model,
                                                         TRITONSERVER_BufferAttributes **usage,
                                                         uint32_t usage_size) {
  ENTER(TRITONBACKEND_ModelReportMemoryUsage, model, KIND_MODEL);
  model->memory[0] = 0;
  for (uint32_t index = 0; index < usage_size; index++) {
    const TRITONSERVER_BufferAttributes *entry = usage[index];
    if (!is_live("TRITONBACKEND_ModelReportMemoryUsage", entry, KIND_ATTRIBUTES)) continue;
    size_t used = strlen(model->memory);
    snprintf(model->memory + used, sizeof model->memory - used, "%d %lld %zu;", (int)entry->memory,
             (long long)entry->id, entry->n_bytes);
  }
  LEAVE;
}

/* ---- backend ---- */

TRITONSERVER_Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor) {
  *major = 1;
  *minor = 16;
  return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_BackendName(TRITONBACKEND_Backend *backend, const char **name) {
  ENTER(TRITONBACKEND_BackendName, backend, KIND_BACKEND);
  *name = "llm";
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_BackendState(TRITONBACKEND_Backend *backend, void **state) {
  ENTER(TRITONBACKEND_BackendState, backend, KIND_BACKEND);
  *state = backend->state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend *backend, void *state) {
  ENTER(TRITONBACKEND_BackendSetState, backend, KIND_BACKEND);
  backend->state = state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute *attributes, const TRITONSERVER_InstanceGroupKind kind,
    const uint64_t count, const uint64_t *device_ids, const uint64_t id_count) {
  (void)device_ids;
  /* The test passes an int[2] as the attributes. */
  ((int *)attributes)[0] = (int)kind;
  ((int *)attributes)[1] = (int)(count + id_count);
  return NULL;
}

/* ---- model ---- */

TRITONSERVER_Error *TRITONBACKEND_ModelName(TRITONBACKEND_Model *model, const char **name) {
  ENTER(TRITONBACKEND_ModelName, model, KIND_MODEL);
  *name = model->name;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *model, uint64_t *version) {
  ENTER(TRITONBACKEND_ModelVersion, model, KIND_MODEL);
  *version = 1;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *model,
                                                  TRITONBACKEND_ArtifactType *artifact_type,
                                                  const char **location) {
  ENTER(TRITONBACKEND_ModelRepository, model, KIND_MODEL);
  *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = model->location;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *model, const uint32_t config_version,
                                              TRITONSERVER_Message **model_config) {
  ENTER(TRITONBACKEND_ModelConfig, model, KIND_MODEL);
  if (config_version != 1) misuse("TRITONBACKEND_ModelConfig: version %u", config_version);
  *model_config = begin(KIND_MESSAGE, sizeof **model_config);
  (*model_config)->text = copy(model->config, strlen(model->config));
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model *model,
                                                          bool *auto_complete_config) {
  ENTER(TRITONBACKEND_ModelAutoCompleteConfig, model, KIND_MODEL);
  *auto_complete_config = model->auto_complete;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model *model, const uint32_t config_version,
                                                 TRITONSERVER_Message *model_config) {
  ENTER(TRITONBACKEND_ModelSetConfig, model, KIND_MODEL);
  if (config_version != 1 || !model->auto_complete) misuse("TRITONBACKEND_ModelSetConfig: not allowed");
  if (is_live("TRITONBACKEND_ModelSetConfig", model_config, KIND_MESSAGE)) model->config_was_set = true;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelServer(TRITONBACKEND_Model *model, TRITONSERVER_Server **found) {
  ENTER(TRITONBACKEND_ModelServer, model, KIND_MODEL);
  *found = &server;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelBackend(TRITONBACKEND_Model *model, TRITONBACKEND_Backend **backend) {
  ENTER(TRITONBACKEND_ModelBackend, model, KIND_MODEL);
  *backend = model->backend;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelState(TRITONBACKEND_Model *model, void **state) {
  ENTER(TRITONBACKEND_ModelState, model, KIND_MODEL);
  *state = model->state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelSetState(TRITONBACKEND_Model *model, void *state) {
  ENTER(TRITONBACKEND_ModelSetState, model, KIND_MODEL);
  model->state = state;
  LEAVE;
}

/* ---- instance ---- */

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance *instance,
                                                     void **state) {
  ENTER(TRITONBACKEND_ModelInstanceState, instance, KIND_INSTANCE);
  *state = instance->state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance *instance,
                                                        void *state) {
  ENTER(TRITONBACKEND_ModelInstanceSetState, instance, KIND_INSTANCE);
  instance->state = state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceDeviceId(TRITONBACKEND_ModelInstance *instance,
                                                        int32_t *device_id) {
  ENTER(TRITONBACKEND_ModelInstanceDeviceId, instance, KIND_INSTANCE);
  *device_id = instance->device_id;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceKind(TRITONBACKEND_ModelInstance *instance,
                                                    TRITONSERVER_InstanceGroupKind *kind) {
  ENTER(TRITONBACKEND_ModelInstanceKind, instance, KIND_INSTANCE);
  *kind = instance->instance_kind;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceIsPassive(TRITONBACKEND_ModelInstance *instance,
                                                         bool *is_passive) {
  ENTER(TRITONBACKEND_ModelInstanceIsPassive, instance, KIND_INSTANCE);
  *is_passive = instance->is_passive;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *instance,
                                                     TRITONBACKEND_Model **model) {
  ENTER(TRITONBACKEND_ModelInstanceModel, instance, KIND_INSTANCE);
  *model = instance->model;
  LEAVE;
}

static void check_times(const char *function, const uint64_t times[4]) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  for (int index = 0; index < 4; index++) {
    if (times[index] == 0) misuse("%s: time %d is zero", function, index);
    if (index > 0 && times[index] < times[index - 1]) misuse("%s: time %d runs backwards", function, index);
    if (times[index] > now_ns) misuse("%s: time %d is not of the steady clock", function, index);
  }
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request *request, const bool success,
    const uint64_t exec_start_ns, const uint64_t compute_start_ns, const uint64_t compute_end_ns,
    const uint64_t exec_end_ns) {
  ENTER(TRITONBACKEND_ModelInstanceReportStatistics, instance, KIND_INSTANCE);
  const uint64_t times[4] = {exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns};
  check_times("TRITONBACKEND_ModelInstanceReportStatistics", times);
  if (is_live("TRITONBACKEND_ModelInstanceReportStatistics", request, KIND_REQUEST))
    note(request, success ? 'S' : 's');
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance *instance, const uint64_t batch_size, const uint64_t exec_start_ns,
    const uint64_t compute_start_ns, const uint64_t compute_end_ns, const uint64_t exec_end_ns) {
  ENTER(TRITONBACKEND_ModelInstanceReportBatchStatistics, instance, KIND_INSTANCE);
  const uint64_t times[4] = {exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns};
  check_times("TRITONBACKEND_ModelInstanceReportBatchStatistics", times);
  n_batch_reports += batch_size;
  LEAVE;
}
