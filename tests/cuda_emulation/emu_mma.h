// SPDX-License-Identifier: Apache-2.0
// Emulation of ldmatrix, mma.sync m16n8k16 (bf16) and cp.async.  Included inside namespace dev.
// Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16", "ldmatrix".
inline void emu_ldmatrix(uint32_t* r, int count, bool trans, const void* row, EMU_SITE) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emu::fail("ldmatrix: a row address is not 16-byte aligned");
  const auto g = emu::collective(~0u, reinterpret_cast<uint64_t>(row), "ldmatrix", EMU_AT);
  const int l = ::emu::cur->lane;
  for (int i = 0; i < count; ++i) {
    const auto* lo = reinterpret_cast<const uint16_t*>(g.v[i * 8 + (trans ? l % 4 * 2 : l / 4)]);
    const auto* hi = reinterpret_cast<const uint16_t*>(g.v[i * 8 + (trans ? l % 4 * 2 + 1 : l / 4)]);
    r[i] = uint32_t(trans ? lo[l / 4] : lo[l % 4 * 2]) | uint32_t(trans ? hi[l / 4] : hi[l % 4 * 2 + 1]) << 16;
  }
}
inline void load_matrix_x4(uint32_t (&r)[4], const void* row, EMU_SITE) { emu_ldmatrix(r, 4, false, row, EMU_AT); }
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row, EMU_SITE) { emu_ldmatrix(r, 4, true, row, EMU_AT); }
template <class T> float emu_part(uint32_t word, int half) {
  const auto bits = static_cast<uint16_t>(half ? word >> 16 : word);
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, 2);
  return static_cast<float>(value);
}
template <class T> void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], T, EMU_SITE) {
  const int l = ::emu::cur->lane;
  uint64_t* mine = emu::wide(false) + l * 4;
  std::memcpy(mine, a, 16);
  std::memcpy(mine + 2, b, 8);
  emu::collective(~0u, 0, "mma.sync", EMU_AT);
  const uint64_t* all = emu::wide(true);
  for (int i = 0; i < 4; ++i) {
    const int row = l / 4 + (i / 2) * 8, col = l % 4 * 2 + i % 2;
    float s = 0;
    for (int k = 0; k < 16; ++k) {  // A: lane (row%8)*4 + (k%8)/2, register row/8 + 2*(k/8); B: lane col*4 + (k%8)/2, register k/8
      uint32_t wa, wb;
      std::memcpy(&wa, reinterpret_cast<const uint32_t*>(all + (row % 8 * 4 + k % 8 / 2) * 4) + (row / 8 + 2 * (k / 8)), 4);
      std::memcpy(&wb, reinterpret_cast<const uint32_t*>(all + (col * 4 + k % 8 / 2) * 4 + 2) + k / 8, 4);
      s += emu_part<T>(wa, k & 1) * emu_part<T>(wb, k & 1);
    }
    d[i] += s;
  }
}
// cp.async: the copy happens when its group is waited for, and the target is garbage until then.
inline void copy_16_bytes(void* smem, const void* g) { emu::async_copy(smem, g, 16); }
inline void end_copy_group() { emu::async_commit(); }
template <int N> void wait_for_copies() { emu::async_wait(N); }
