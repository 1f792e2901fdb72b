/* The test's side of the fake: makes its objects, asks for faults, and says what became of requests. */
#include "fake.h"

#pragma GCC visibility push(default)

/* Makes the nth call of a function fail, and all later ones unless `once`. */
void fake_fail(const char *function, int nth, bool once) {
  pthread_mutex_lock(&lock);
  for (int index = 0; index < MAX_FAULTS; index++) {
    if (faults[index].function != NULL) continue;
    faults[index].function = copy(function, strlen(function));
    faults[index].nth = nth;
    faults[index].once = once;
    break;
  }
  pthread_mutex_unlock(&lock);
}

void fake_no_faults(void) {
  pthread_mutex_lock(&lock);
  memset(faults, 0, sizeof faults);
  gpu_outputs = false;
  pthread_mutex_unlock(&lock);
}

void fake_gpu_outputs(bool on) {
  pthread_mutex_lock(&lock);
  gpu_outputs = on;
  pthread_mutex_unlock(&lock);
}

void fake_verbose(bool on) { verbose = on; }

/* Objects of the kinds that the library must give back: errors, messages, requests, factories, responses. */
int fake_live(int kind) {
  pthread_mutex_lock(&lock);
  int n = kind >= 0 && kind < N_KINDS ? n_live[kind] : -1;
  pthread_mutex_unlock(&lock);
  return n;
}

const char *fake_misuse(void) { return n_misuses == 0 ? NULL : first_misuse; }

uint64_t fake_batch_reports(void) { return n_batch_reports; }

TRITONBACKEND_Backend *fake_backend(void) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_Backend *backend = begin(KIND_BACKEND, sizeof *backend);
  pthread_mutex_unlock(&lock);
  return backend;
}

TRITONBACKEND_Model *fake_model(TRITONBACKEND_Backend *backend, const char *name, const char *location,
                                const char *config, bool auto_complete) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_Model *model = begin(KIND_MODEL, sizeof *model);
  model->backend = backend;
  model->name = copy(name, strlen(name));
  model->location = copy(location, strlen(location));
  model->config = copy(config, strlen(config));
  model->auto_complete = auto_complete;
  pthread_mutex_unlock(&lock);
  return model;
}

void fake_model_ready(TRITONBACKEND_Model *model, bool ready) {
  pthread_mutex_lock(&lock);
  model->ready = ready;
  pthread_mutex_unlock(&lock);
}

const char *fake_model_memory(TRITONBACKEND_Model *model) { return model->memory; }

bool fake_model_was_set(TRITONBACKEND_Model *model) { return model->config_was_set; }

TRITONBACKEND_ModelInstance *fake_instance(TRITONBACKEND_Model *model, int kind, int device_id,
                                           bool is_passive) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_ModelInstance *instance = begin(KIND_INSTANCE, sizeof *instance);
  instance->model = model;
  instance->instance_kind = (TRITONSERVER_InstanceGroupKind)kind;
  instance->device_id = device_id;
  instance->is_passive = is_passive;
  pthread_mutex_unlock(&lock);
  return instance;
}

/* Ends a backend, a model or an instance after its Finalize. */
void fake_end(void *pointer) {
  pthread_mutex_lock(&lock);
  end("fake_end", pointer, ((object *)pointer)->kind);
  pthread_mutex_unlock(&lock);
}

TRITONBACKEND_Request *fake_request(const char *id) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_Request *request = begin(KIND_REQUEST, sizeof *request);
  request->id = copy(id, strlen(id));
  pthread_mutex_unlock(&lock);
  return request;
}

void fake_input(TRITONBACKEND_Request *request, const char *name, int datatype, int memory,
                uint64_t bytes_a_buffer, const char *bytes, uint64_t n_bytes) {
  TRITONBACKEND_Input *input = &request->inputs[request->n_inputs++];
  input->name = copy(name, strlen(name));
  input->datatype = (TRITONSERVER_DataType)datatype;
  input->memory = (TRITONSERVER_MemoryType)memory;
  input->shape[0] = 1;
  input->bytes = copy(bytes, n_bytes);
  input->n_bytes = n_bytes;
  input->bytes_a_buffer = bytes_a_buffer;
}

/* `value` is a C string, an int64_t, a bool or a double, as the kind says; null is no value. */
void fake_parameter(TRITONBACKEND_Request *request, const char *key, int kind, const void *value) {
  parameter *given = &request->parameters[request->n_parameters++];
  given->key = copy(key, strlen(key));
  given->kind = (TRITONSERVER_ParameterType)kind;
  given->has_value = value != NULL;
  if (value == NULL) return;
  switch (given->kind) {
    case TRITONSERVER_PARAMETER_STRING: given->value.text = copy(value, strlen(value)); break;
    case TRITONSERVER_PARAMETER_BOOL: given->value.boolean = *(const bool *)value; break;
    default: memcpy(&given->value, value, 8);
  }
}

void fake_cancel(TRITONBACKEND_Request *request) {
  pthread_mutex_lock(&lock);
  request->cancelled = true;
  pthread_mutex_unlock(&lock);
}

static bool has_ended(const TRITONBACKEND_Request *request) {
  return request->head.state == DEAD && request->n_factories == 0;
}

/* Waits until a request has `n` responses or, with n = 0, until nothing of it is left; false if time runs out. */
bool fake_wait(TRITONBACKEND_Request *request, uint32_t n, uint64_t timeout_ms) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += (time_t)(timeout_ms / 1000);
  until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
  bool done;
  pthread_mutex_lock(&lock);
  for (;;) {
    done = n > 0 ? request->n_responses >= n : has_ended(request);
    if (done || pthread_cond_timedwait(&changed, &lock, &until) != 0) break;
  }
  pthread_mutex_unlock(&lock);
  return done;
}

const char *fake_events(TRITONBACKEND_Request *request) { return request->events; }

uint32_t fake_n_responses(TRITONBACKEND_Request *request) {
  pthread_mutex_lock(&lock);
  uint32_t n = request->n_responses;
  pthread_mutex_unlock(&lock);
  return n;
}

/* Reads response `index` of a request that has ended; the error code is -1 without an error. */
void fake_response(TRITONBACKEND_Request *request, uint32_t index, const char **text, uint64_t *n_bytes,
                   uint32_t *n_dims, uint32_t *flags, int *error, const char **message) {
  const sent *out = &request->responses[index];
  *text = out->text;
  *n_bytes = out->n_bytes;
  *n_dims = out->n_dims;
  *flags = out->flags;
  *error = out->error;
  *message = out->message;
}

/* Forgets everything; the memory of ended objects is freed. */
void fake_reset(void) {
  pthread_mutex_lock(&lock);
  while (objects != NULL) {
    object *head = objects;
    objects = head->next;
    if (head->kind == KIND_ERROR) free(((TRITONSERVER_Error *)head)->text);
    if (head->kind == KIND_MESSAGE) free(((TRITONSERVER_Message *)head)->text);
    if (head->kind == KIND_LABEL) {
      free(((TRITONSERVER_Parameter *)head)->name);
      free(((TRITONSERVER_Parameter *)head)->value);
    }
    if (head->kind == KIND_SERIES) free(((series *)head)->key);
    if (head->kind == KIND_RESPONSE) free(((TRITONBACKEND_Response *)head)->output.bytes);
    if (head->kind == KIND_REQUEST) {
      TRITONBACKEND_Request *request = (TRITONBACKEND_Request *)head;
      for (uint32_t index = 0; index < request->n_inputs; index++) {
        free(request->inputs[index].name);
        free(request->inputs[index].bytes);
      }
      for (uint32_t index = 0; index < request->n_parameters; index++) {
        free(request->parameters[index].key);
        if (request->parameters[index].kind == TRITONSERVER_PARAMETER_STRING)
          free(request->parameters[index].value.text);
      }
      for (uint32_t index = 0; index < request->n_responses; index++) {
        free(request->responses[index].text);
        free(request->responses[index].message);
      }
      free(request->id);
    }
    if (head->kind == KIND_MODEL) {
      TRITONBACKEND_Model *model = (TRITONBACKEND_Model *)head;
      free(model->name);
      free(model->location);
      free(model->config);
    }
    free(head);
  }
  memset(n_live, 0, sizeof n_live);
  memset(faults, 0, sizeof faults);
  gpu_outputs = false;
  n_misuses = 0;
  n_batch_reports = 0;
  pthread_mutex_unlock(&lock);
}

#pragma GCC visibility pop
