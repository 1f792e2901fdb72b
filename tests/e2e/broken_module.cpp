// A module for CPUs that scores highest, is what the module GOOD is, and ends the process with the
// first graph that it computes: what code for a processor does that was compiled wrong.

#include <csignal>
#include <dlfcn.h>

#include "ggml-backend-impl.h"

static ggml_backend_reg registry;
static ggml_backend_device device;
static ggml_backend_t (*init_good)(ggml_backend_dev_t, const char *);

static ggml_status compute(ggml_backend_t, ggml_cgraph *) {
    raise(SIGILL);
    return GGML_STATUS_FAILED;
}

static ggml_backend_t init_broken(ggml_backend_dev_t of, const char *parameters) {
    ggml_backend_t backend = init_good(of, parameters);
    backend->iface.graph_compute = compute;
    return backend;
}

static ggml_backend_dev_t get_device(ggml_backend_reg_t, size_t) { return &device; }

extern "C" __attribute__((visibility("default"))) int ggml_backend_score() { return 1 << 20; }

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init() {
    void *good = dlopen(GOOD, RTLD_NOW | RTLD_LOCAL);
    auto init = good ? (ggml_backend_reg_t(*)())dlsym(good, "ggml_backend_init") : nullptr;
    if (!init) return nullptr;
    ggml_backend_reg_t of_good = init();
    device = *of_good->iface.get_device(of_good, 0);
    registry = *of_good;
    registry.iface.get_device = get_device;
    device.reg = &registry;
    init_good = device.iface.init_backend;
    device.iface.init_backend = init_broken;
    return &registry;
}
