# The machine code that `inject.py` has a stopped thread of another process run (x86-64 Linux). It is made into stub.bin by
#
#     gcc -c -o stub.o stub.S && objcopy -O binary -j .text stub.o stub.bin
#
# Rules:
# - Position-independent, and no byte of it or of `data` depends on the moment: it is the same whenever it is put into one process.
# - It lies in pages that may be read and executed only. What belongs to the moment is a block on the thread's stack, at rsp when it begins.
# - All that the thread had comes back: integer registers, flags, vector and floating point state, errno, the mask of signals.
# - It ends in one instruction that sets rip and rsp together, so that the handler of a signal never finds the block half gone.
#
# The block, from rsp upwards: [0] where the thread goes on, [8] where it does if a signal has come meanwhile, [16] rax then, [24] the mask.
# It is 1024 bytes below the thread's own rsp, beyond its red zone.
.intel_syntax noprefix
.text
stub:
  push rax; push rcx; push rdx; push rbx; push rbp; push rsi; push rdi
  push r8; push r9; push r10; push r11; push r12; push r13; push r14; push r15
  pushfq
  cld
  mov rbp, rsp                  # 128 bytes of registers above: the block is at rbp + 128, rax at rbp + 120
  lea rbx, [rip + data]
  sub rsp, 16448                # the state of all extensions that there are takes 11 KiB
  and rsp, -64
  lea rdi, [rsp + 512]          # XRSTOR wants the reserved bytes of the header to be zero, and XSAVE leaves them alone
  xor eax, eax
  mov ecx, 8
  rep stosq
  mov eax, -1
  mov edx, -1
  xsave64 [rsp]
  sub rsp, 128                  # [0] attributes of a thread (56 bytes), [64] its handle, [72] the signals that are pending
  call [rbx + 0]                # __errno_location
  mov r12, rax
  mov r13d, [rax]
  mov rdi, rsp
  call [rbx + 8]                # pthread_attr_init
  mov rdi, rsp
  mov esi, 0x200000             # musl's default of 128 KiB is too little for imports
  call [rbx + 16]               # pthread_attr_setstacksize
  mov rdi, rsp
  mov esi, 1                    # PTHREAD_CREATE_DETACHED
  call [rbx + 24]               # pthread_attr_setdetachstate
  lea rdi, [rsp + 64]
  mov rsi, rsp
  lea rdx, [rip + thread]
  mov rcx, rbx
  call [rbx + 32]               # pthread_create
  mov [r12], r13d
  mov eax, 127                  # rt_sigpending: what has come while signals were blocked
  lea rdi, [rsp + 72]
  mov esi, 8
  syscall
  mov rax, [rbp + 128 + 24]
  not rax
  and rax, [rsp + 72]
  jz 1f
  mov rax, [rbp + 128 + 8]      # as the kernel would: the system call ends with EINTR, and is not started again
  mov [rbp + 128], rax
  mov rax, [rbp + 128 + 16]
  mov [rbp + 120], rax
1:
  mov eax, 14                   # rt_sigprocmask(SIG_SETMASK, mask)
  mov edi, 2
  lea rsi, [rbp + 128 + 24]
  xor edx, edx
  mov r10d, 8
  syscall
  add rsp, 128
  mov eax, -1
  mov edx, -1
  xrstor64 [rsp]
  mov rsp, rbp
  popfq
  pop r15; pop r14; pop r13; pop r12; pop r11; pop r10; pop r9; pop r8
  pop rdi; pop rsi; pop rbp; pop rbx; pop rdx; pop rcx; pop rax
  ret 1016

thread:
  push rbx
  push r12
  push r13
  mov rbx, rdi
  call [rbx + 40]               # Py_IsInitialized
  test eax, eax
  jz 2f
  call [rbx + 48]               # PyGILState_Ensure
  mov r12d, eax
  call [rbx + 56]               # PyDict_New: a namespace of its own, not the main module's, which may be no module
  mov r13, rax
  test rax, rax
  jz 3f
  lea rdi, [rbx + 88]
  mov esi, 257                  # Py_file_input
  mov rdx, rax
  mov rcx, rax
  xor r8d, r8d
  call [rbx + 64]               # PyRun_StringFlags
  mov rdi, rax
  call [rbx + 72]               # Py_DecRef, which takes NULL too
  mov rdi, r13
  call [rbx + 72]
3:
  mov edi, r12d
  call [rbx + 80]               # PyGILState_Release
2:
  pop r13
  pop r12
  pop rbx
  xor eax, eax
  ret
  .balign 16
data:                           # eleven addresses, and the source text
