//! A stand-in for NVIDIA's management library: `libnvidia-ml.so.1` as far as rollcall calls it,
//! for machines without a GPU. The functions, types and rules are those of NVIDIA's `nvml.h`.
//!
//! What it answers is read from the JSON file that the environment variable
//! `ROLLCALL_NVML_STANDIN` names, anew at each initialisation, so that a test may change the
//! hardware between two readings. See [`script::Script`] for the file's fields.
#![expect(unsafe_code, reason = "a C library hands out and takes raw pointers")]

mod script;
mod trouble;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as ARGUMENT_VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH as LIB_RM_VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_LIBRARY_NOT_FOUND as LIBRARY_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as NO_PERMISSION,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_OPERATING_SYSTEM as OPERATING_SYSTEM,
    nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED as RESET_REQUIRED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
    nvmlReturn_t,
};

use script::{Gpu, MigDevice, PciAddress, Script};

/// The library's state: how often it is initialised, and what it was told at the last time.
static LIBRARY: Mutex<Library> = Mutex::new(Library { users: 0, script: None });

struct Library {
    users: usize,
    script: Option<Script>,
}

fn library() -> MutexGuard<'static, Library> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failed call: the code that it returns.
type Failed = nvmlReturn_t;

fn code(result: Result<(), Failed>) -> nvmlReturn_t {
    result.err().unwrap_or(SUCCESS)
}

/// Answers a call by the script of an initialised library, unless it says that the call fails.
fn with_script<T>(
    call: &str,
    read: impl FnOnce(&Script) -> Result<T, Failed>,
) -> Result<T, Failed> {
    // The lock is not held by a call that hangs.
    let script = library().script.clone().ok_or(UNINITIALIZED)?;
    trouble::make(call, &script);
    script.errors.get(call).map_or(Ok(()), |error| Err(*error))?;
    read(&script)
}

/// What a handle stands for.
enum Handle<'a> {
    Gpu(&'a Gpu),
    Instance(&'a MigDevice),
}

/// Answers a call about the GPU behind a handle.
fn with_gpu<T>(
    call: &str,
    device: nvmlDevice_t,
    read: impl FnOnce(&Gpu) -> Result<T, Failed>,
) -> Result<T, Failed> {
    with_device(call, device, |handle| match handle {
        Handle::Gpu(gpu) => read(gpu),
        Handle::Instance(_) => Err(INVALID_ARGUMENT),
    })
}

/// Answers a call about the GPU or the instance behind a handle.
fn with_device<T>(
    call: &str,
    device: nvmlDevice_t,
    read: impl FnOnce(Handle<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    with_script(call, |script| {
        let gpu = script.gpus.get(gpu_index(device)?).ok_or(INVALID_ARGUMENT)?;
        gpu.errors.get(call).map_or(Ok(()), |error| Err(*error))?;
        match (device.addr() / PLACES).checked_sub(1) {
            None => read(Handle::Gpu(gpu)),
            Some(place) => {
                let instance = gpu.mig_devices.get(place).and_then(Option::as_ref);
                read(Handle::Instance(instance.ok_or(INVALID_ARGUMENT)?))
            }
        }
    })
}

/// How many GPUs a handle has room for.
const PLACES: usize = 1 << 16;

/// A handle is a number one above the index, never a place in memory.
fn handle(index: usize) -> nvmlDevice_t {
    ptr::without_provenance_mut(index + 1)
}

/// The handle of an instance: that of its GPU, and a number one above the place further up.
fn instance_handle(gpu: nvmlDevice_t, place: usize) -> nvmlDevice_t {
    ptr::without_provenance_mut(gpu.addr() + (place + 1) * PLACES)
}

/// The opposite of what [`handle`] does.
fn gpu_index(device: nvmlDevice_t) -> Result<usize, Failed> {
    (device.addr() % PLACES).checked_sub(1).ok_or(INVALID_ARGUMENT)
}

/// Writes to where the caller said.
///
/// # Safety
///
/// `target` is null or valid for writing a `T`.
unsafe fn give<T>(target: *mut T, value: T) -> Result<(), Failed> {
    if target.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: it is not null, so the caller vouches for it.
    unsafe { target.write(value) };
    Ok(())
}

/// Writes a text and its terminating zero to where the caller said.
///
/// # Safety
///
/// `target` is null or valid for writing `length` bytes.
unsafe fn give_text(target: *mut c_char, length: c_uint, text: &str) -> Result<(), Failed> {
    if target.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    let room = usize::try_from(length).unwrap_or(usize::MAX);
    if text.len() >= room {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller vouches for `length` bytes, and the text with its zero is no longer.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), target.cast::<u8>(), text.len());
        target.add(text.len()).write(0);
    }
    Ok(())
}

/// Initialises the library; each call is to be matched by one of [`nvmlShutdown`].
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    let script = match Script::read() {
        Ok(script) => script,
        Err(problem) => {
            #[expect(clippy::print_stderr, reason = "a C library has no other way to say it")]
            {
                eprintln!("rollcall's stand-in for NVML: {problem}");
            }
            return UNKNOWN;
        }
    };
    trouble::make("nvmlInit_v2", &script);
    if script.init != SUCCESS {
        return script.init;
    }
    let mut library = library();
    library.users += 1;
    library.script = Some(script);
    SUCCESS
}

/// Initialises the library; the flags make no difference here.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    nvmlInit_v2()
}

/// Ends one initialisation.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    let mut library = library();
    let Some(left) = library.users.checked_sub(1) else { return UNINITIALIZED };
    library.users = left;
    if left == 0 {
        library.script = None;
    }
    SUCCESS
}

/// What a code means; works without initialisation.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    let text: &'static CStr = match result {
        SUCCESS => c"Success",
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        NO_PERMISSION => c"Insufficient Permissions",
        NOT_FOUND => c"Not Found",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        DRIVER_NOT_LOADED => c"Driver Not Loaded",
        LIBRARY_NOT_FOUND => c"NVML Shared Library Not Found",
        GPU_IS_LOST => c"GPU is lost",
        RESET_REQUIRED => c"GPU requires reset",
        OPERATING_SYSTEM => c"GPU access blocked by the operating system",
        LIB_RM_VERSION_MISMATCH => c"Driver/library version mismatch",
        ARGUMENT_VERSION_MISMATCH => c"Argument version mismatch",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

/// The driver's version.
///
/// # Safety
///
/// `version` is null or valid for writing `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    code(with_script("nvmlSystemGetDriverVersion", |script| {
        let text = script.driver_version.as_deref().ok_or(NOT_SUPPORTED)?;
        // SAFETY: as this function's own.
        unsafe { give_text(version, length, text) }
    }))
}

/// The newest CUDA version that the driver serves: 1000 times the major and 10 times the minor.
///
/// # Safety
///
/// `version` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    code(with_script("nvmlSystemGetCudaDriverVersion_v2", |script| {
        let number = script.cuda_version.ok_or(LIBRARY_NOT_FOUND)?;
        // SAFETY: as this function's own.
        unsafe { give(version, number) }
    }))
}

/// How many GPUs there are, those included that do not answer.
///
/// # Safety
///
/// `count` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    code(with_script("nvmlDeviceGetCount_v2", |script| {
        let number = c_uint::try_from(script.gpus.len()).unwrap_or(c_uint::MAX);
        // SAFETY: as this function's own.
        unsafe { give(count, number) }
    }))
}

/// The handle of a GPU.
///
/// # Safety
///
/// `device` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    code(with_script("nvmlDeviceGetHandleByIndex_v2", |script| {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let gpu = script.gpus.get(index).ok_or(INVALID_ARGUMENT)?;
        gpu.errors.get("nvmlDeviceGetHandleByIndex_v2").map_or(Ok(()), |error| Err(*error))?;
        match gpu.handle_error {
            Some(error) => Err(error),
            // SAFETY: as this function's own.
            None => unsafe { give(device, handle(index)) },
        }
    }))
}

/// The maker's name for a GPU.
///
/// # Safety
///
/// `name` is null or valid for writing `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    code(with_device("nvmlDeviceGetName", device, |handle| {
        let text = match handle {
            Handle::Gpu(gpu) => &gpu.name,
            Handle::Instance(instance) => &instance.name,
        };
        // SAFETY: as this function's own.
        unsafe { give_text(name, length, text) }
    }))
}

/// A GPU's own identity.
///
/// # Safety
///
/// `uuid` is null or valid for writing `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetUUID", device, |gpu| {
        let text = gpu.uuid.as_deref().ok_or(NOT_SUPPORTED)?;
        // SAFETY: as this function's own.
        unsafe { give_text(uuid, length, text) }
    }))
}

/// A GPU's memory in bytes.
///
/// # Safety
///
/// `memory` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_t,
) -> nvmlReturn_t {
    code(with_device("nvmlDeviceGetMemoryInfo", device, |handle| {
        let total = total_bytes(&handle)?;
        // SAFETY: as this function's own.
        unsafe { give(memory, nvmlMemory_t { total, free: total, used: 0 }) }
    }))
}

/// A GPU's memory in bytes, with what the driver keeps for itself.
///
/// # Safety
///
/// `memory` is null or valid for reading and writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    code(with_device("nvmlDeviceGetMemoryInfo_v2", device, |handle| {
        // SAFETY: as this function's own.
        let version = unsafe { memory.as_ref() }.ok_or(INVALID_ARGUMENT)?.version;
        // NVML_STRUCT_VERSION(Memory, 2) of nvml.h.
        if usize::try_from(version) != Ok(size_of::<nvmlMemory_v2_t>() | 2 << 24) {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        let total = total_bytes(&handle)?;
        let info = nvmlMemory_v2_t { version, total, reserved: 0, free: total, used: 0 };
        // SAFETY: as this function's own.
        unsafe { give(memory, info) }
    }))
}

fn total_bytes(handle: &Handle<'_>) -> Result<u64, Failed> {
    match handle {
        Handle::Gpu(gpu) => gpu.memory_error.map_or(gpu.memory_bytes.ok_or(NOT_SUPPORTED), Err),
        Handle::Instance(instance) => instance.memory_bytes.ok_or(NOT_SUPPORTED),
    }
}

/// A GPU's compute capability.
///
/// # Safety
///
/// `major` and `minor` are null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetCudaComputeCapability", device, |gpu| {
        let (first, second) = gpu.compute_capability.ok_or(NOT_SUPPORTED)?;
        // SAFETY: as this function's own.
        unsafe {
            give(major, first)?;
            give(minor, second)
        }
    }))
}

/// Where a GPU sits.
///
/// # Safety
///
/// `pci` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(
    device: nvmlDevice_t,
    pci: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetPciInfo_v3", device, |gpu| {
        let PciAddress { domain, bus, device, function } =
            gpu.pci_address.clone().ok_or(NOT_SUPPORTED)?;
        let info = nvmlPciInfo_t {
            busIdLegacy: chars(&format!("{domain:04X}:{bus:02X}:{device:02X}.{function:X}")),
            domain,
            bus,
            device,
            pciDeviceId: gpu.pci_device_id,
            pciSubSystemId: 0,
            busId: chars(&format!("{domain:08X}:{bus:02X}:{device:02X}.{function:X}")),
        };
        // SAFETY: as this function's own.
        unsafe { give(pci, info) }
    }))
}

/// Whether a GPU is divided into instances, and whether it will be.
///
/// # Safety
///
/// `current` and `pending` are null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetMigMode", device, |gpu| {
        let mode = c_uint::from(gpu.mig_mode.ok_or(NOT_SUPPORTED)?);
        // SAFETY: as this function's own.
        unsafe {
            give(current, mode)?;
            give(pending, mode)
        }
    }))
}

/// How many places for instances a GPU has.
///
/// # Safety
///
/// `count` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    device: nvmlDevice_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetMaxMigDeviceCount", device, |gpu| {
        let places = c_uint::try_from(gpu.mig_devices.len()).unwrap_or(c_uint::MAX);
        // SAFETY: as this function's own.
        unsafe { give(count, places) }
    }))
}

/// The handle of an instance.
///
/// # Safety
///
/// `instance` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    instance: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetMigDeviceHandleByIndex", device, |gpu| {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        gpu.mig_devices.get(place).ok_or(INVALID_ARGUMENT)?.as_ref().ok_or(NOT_FOUND)?;
        // SAFETY: as this function's own.
        unsafe { give(instance, instance_handle(device, place)) }
    }))
}

/// Whether a link to another GPU or a switch is active.
///
/// # Safety
///
/// `is_active` is null or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    is_active: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    code(with_gpu("nvmlDeviceGetNvLinkState", device, |gpu| {
        if gpu.nvlinks.is_empty() {
            return Err(NOT_SUPPORTED);
        }
        let link = usize::try_from(link).unwrap_or(usize::MAX);
        let state = *gpu.nvlinks.get(link).ok_or(INVALID_ARGUMENT)?;
        // SAFETY: as this function's own.
        unsafe { give(is_active, nvmlEnableState_t::from(state)) }
    }))
}

/// A short ASCII text in an array of C's characters, cut so that a zero ends it.
fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (place, byte) in array.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    array
}
