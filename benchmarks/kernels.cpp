// The kernels of the fused backend for few samples and for batches, by hand, on the same packed
// weights: see gbdnn/backends/fused/windows.py and the `vectors` beside each packing.
// Compiled by benchmarks/kernels.py. With -DPLAIN the instructions of VNNI and VBMI are loops, which
// any processor can run: for the tests.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

struct Layer {  // benchmarks/kernels.py has the same fields
    int64_t in, out, groups, together, nibbles;
    const int64_t *table, *targets;
    const uint16_t *columns;  // of entries times 8, or where windows begin
    const uint8_t *places;
    const void *weights;
    const int32_t *constants;
    const float *scales, *bias;
    float inverse, least, most;
};

static const int ROWS = 16;

// Codes of floats: whole numbers from 0 on
static void write_codes(const Layer &w, const float *x, int64_t count, uint8_t *codes) {
    for (int64_t i = 0; i < count; i++) {
        float level = __builtin_rintf(x[i] * w.inverse);
        level = level > w.least ? level : w.least;
        level = level < w.most ? level : w.most;
        codes[i] = (uint8_t)(int32_t)(level - w.least);
    }
}

static uint8_t *aligned(std::vector<uint8_t> &memory) {
    return (uint8_t *)(((uintptr_t)memory.data() + 63) / 64 * 64);
}

// Scale the sums of sixteen rows, add the bias, apply ReLU
static void finish(const Layer &w, int64_t group, const int32_t *sums, float *out) {
    for (int r = 0; r < ROWS; r++) {
        int64_t row = w.targets[ROWS * group + r];
        if (row < 0) continue;
        float value = w.scales[ROWS * group + r] * (float)(w.constants[ROWS * group + r] + sums[r]);
        out[row] = std::max(value + w.bias[row], 0.0f);
    }
}

// -- float32, one sample ---------------------------------------------------------------------------

#ifdef __AVX512F__
extern "C" void float_windows(const Layer *layer, const float *y, float *out) {
    const Layer &w = *layer;
    const float *weights = (const float *)w.weights;
    for (int64_t group = 0; group < w.groups; group++) {
        alignas(64) float begun[ROWS];
        const int64_t *rows = w.targets + ROWS * group;
        for (int r = 0; r < ROWS; r++) begun[r] = rows[r] < 0 ? 0 : w.bias[rows[r]];
        __m512 total = _mm512_load_ps(begun);
        for (int64_t s = w.table[group]; s < w.table[group + 1]; s++) {
            const float *window = y + w.columns[s];
            __m512 low = _mm512_loadu_ps(window), high = _mm512_loadu_ps(window + 16);
            for (int slot = 0; slot < 2; slot++) {
                int64_t at = (2 * s + slot) * ROWS;
                __m128i bytes = _mm_load_si128((const __m128i *)(w.places + at));
                __m512 picked = _mm512_permutex2var_ps(low, _mm512_cvtepu8_epi32(bytes), high);
                total = _mm512_fmadd_ps(_mm512_load_ps(weights + at), picked, total);
            }
        }
        _mm512_store_ps(begun, _mm512_max_ps(total, _mm512_setzero_ps()));
        for (int r = 0; r < ROWS; r++)
            if (rows[r] >= 0) out[rows[r]] = begun[r];
    }
}
#elif defined(__AVX2__)
extern "C" void float_windows(const Layer *layer, const float *y, float *out) {
    const Layer &w = *layer;
    const float *weights = (const float *)w.weights;
    for (int64_t group = 0; group < w.groups; group++) {
        alignas(64) float begun[ROWS];
        const int64_t *rows = w.targets + ROWS * group;
        for (int r = 0; r < ROWS; r++) begun[r] = rows[r] < 0 ? 0 : w.bias[rows[r]];
        __m256 total[2] = {_mm256_load_ps(begun), _mm256_load_ps(begun + 8)};
        for (int64_t s = w.table[group]; s < w.table[group + 1]; s++) {
            __m256 window = _mm256_loadu_ps(y + w.columns[s]);
            for (int half = 0; half < 2; half++) {
                int64_t at = s * ROWS + 8 * half;
                __m128i bytes = _mm_loadl_epi64((const __m128i *)(w.places + at));
                __m256 picked = _mm256_permutevar8x32_ps(window, _mm256_cvtepu8_epi32(bytes));
                total[half] = _mm256_fmadd_ps(_mm256_load_ps(weights + at), picked, total[half]);
            }
        }
        for (int half = 0; half < 2; half++)
            _mm256_store_ps(begun + 8 * half, _mm256_max_ps(total[half], _mm256_setzero_ps()));
        for (int r = 0; r < ROWS; r++)
            if (rows[r] >= 0) out[rows[r]] = begun[r];
    }
}
#endif

// -- AVX2: pairs of bytes --------------------------------------------------------------------------

#ifdef __AVX2__
static __m256i even(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi32(1)); }
static __m256i odd(__m256i sums) { return _mm256_srai_epi32(sums, 16); }

// Sixteen rows x 2 entries in a window of 16 features, one sample
extern "C" void pair_windows(const Layer *layer, const float *y, float *out) {
    const Layer &w = *layer;
    std::vector<uint8_t> memory(w.in + 16 + 128);
    uint8_t *codes = aligned(memory);
    write_codes(w, y, w.in, codes);
    const int8_t *weights = (const int8_t *)w.weights;
    const __m256i low = _mm256_set1_epi8(15);
    for (int64_t group = 0; group < w.groups; group++) {
        __m256i first = _mm256_setzero_si256(), second = first;
        for (int64_t unit = w.table[group]; unit < w.table[group + 1]; unit++) {
            __m256i sums = _mm256_setzero_si256();
            for (int64_t s = unit * w.together; s < (unit + 1) * w.together; s += 2) {
                __m256i both = _mm256_loadu_si256((const __m256i *)(w.places + 16 * s));
                __m256i places[2] = {_mm256_and_si256(both, low),
                                     _mm256_and_si256(_mm256_srli_epi16(both, 4), low)};
                for (int k = 0; k < 2; k++) {
                    const uint8_t *window = codes + w.columns[s + k];
                    __m256i seen = _mm256_broadcastsi128_si256(
                        _mm_loadu_si128((const __m128i *)window));
                    __m256i weight =
                        _mm256_loadu_si256((const __m256i *)(weights + 32 * (s + k)));
                    __m256i picked = _mm256_shuffle_epi8(seen, places[k]);
                    sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(picked, weight));
                }
            }
            first = _mm256_add_epi32(first, even(sums));
            second = _mm256_add_epi32(second, odd(sums));
        }
        alignas(32) int32_t halves[2][8], sums[ROWS];
        _mm256_store_si256((__m256i *)halves[0], first);
        _mm256_store_si256((__m256i *)halves[1], second);
        for (int r = 0; r < ROWS; r++) sums[r] = halves[r % 2][r / 2];
        finish(w, group, sums, out);
    }
}

// 64 samples: units of `together` pairs of entries
extern "C" void pair_units(const Layer *layer, const float *y, float *out) {
    const Layer &w = *layer;
    std::vector<uint8_t> memory(64 * w.in + 64);
    uint8_t *codes = aligned(memory);
    write_codes(w, y, 64 * w.in, codes);
    const int8_t *weights = (const int8_t *)w.weights;
    for (int64_t row = 0; row < w.out; row++) {
        __m256i sums[4][2], constant = _mm256_set1_epi32(w.constants[row]);
        for (auto &two : sums) two[0] = two[1] = constant;
        for (int64_t unit = w.table[row]; unit < w.table[row + 1]; unit++) {
            __m256i shorts[4];
            for (auto &each : shorts) each = _mm256_setzero_si256();
            for (int64_t pair = unit * w.together; pair < (unit + 1) * w.together; pair++) {
                int16_t two;
                std::memcpy(&two, weights + 2 * pair, 2);
                __m256i weight = _mm256_set1_epi16(two);
                const uint8_t *u = codes + 8 * (int64_t)w.columns[2 * pair];
                const uint8_t *v = codes + 8 * (int64_t)w.columns[2 * pair + 1];
                for (int k = 0; k < 2; k++) {
                    __m256i a = _mm256_load_si256((const __m256i *)(u + 32 * k));
                    __m256i b = _mm256_load_si256((const __m256i *)(v + 32 * k));
                    __m256i lower = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), weight);
                    __m256i upper = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), weight);
                    shorts[2 * k] = _mm256_add_epi16(shorts[2 * k], lower);
                    shorts[2 * k + 1] = _mm256_add_epi16(shorts[2 * k + 1], upper);
                }
            }
            for (int k = 0; k < 4; k++) {
                sums[k][0] = _mm256_add_epi32(sums[k][0], even(shorts[k]));
                sums[k][1] = _mm256_add_epi32(sums[k][1], odd(shorts[k]));
            }
        }
        __m128 scale = _mm_set1_ps(w.scales[row]), bias = _mm_set1_ps(w.bias[row]);
        for (int k = 0; k < 4; k++) {
            __m256i four[2] = {_mm256_unpacklo_epi32(sums[k][0], sums[k][1]),
                               _mm256_unpackhi_epi32(sums[k][0], sums[k][1])};
            float *target = out + 64 * row + 32 * (k / 2) + 8 * (k % 2);
            for (int j = 0; j < 2; j++) {
                __m128i parts[2] = {_mm256_castsi256_si128(four[j]),
                                    _mm256_extracti128_si256(four[j], 1)};
                for (int part = 0; part < 2; part++) {
                    __m128 value = _mm_mul_ps(_mm_cvtepi32_ps(parts[part]), scale);
                    value = _mm_max_ps(_mm_add_ps(value, bias), _mm_setzero_ps());
                    _mm_storeu_ps(target + 4 * j + 16 * part, value);
                }
            }
        }
    }
}
#endif

// -- VNNI and VBMI: four bytes ---------------------------------------------------------------------

#if defined(PLAIN)
struct Bytes { alignas(64) uint8_t at[64]; };
struct Sums { alignas(64) int32_t at[16]; };
static Bytes load_bytes(const void *from) { Bytes x; std::memcpy(x.at, from, 64); return x; }
static Sums zeros(int32_t value) { Sums x; std::fill(x.at, x.at + 16, value); return x; }
static Bytes pick(const Bytes &places, const Bytes &from) {
    Bytes x;
    for (int k = 0; k < 64; k++) x.at[k] = from.at[places.at[k] & 63];
    return x;
}
static Bytes spread(int32_t four) {
    Bytes x;
    for (int k = 0; k < 16; k++) std::memcpy(x.at + 4 * k, &four, 4);
    return x;
}
static void grow(Sums &sums, const Bytes &codes, const Bytes &weights) {
    for (int k = 0; k < 64; k++) sums.at[k / 4] += codes.at[k] * (int8_t)weights.at[k];
}
static Bytes interleaved(const Bytes &u, const Bytes &v, int half, int size) {
    Bytes x;
    for (int lane = 0, n = 0; lane < 64; lane += 16)
        for (int k = lane + 8 * half; k < lane + 8 * half + 8; k += size) {
            std::memcpy(x.at + n, u.at + k, size);
            std::memcpy(x.at + n + size, v.at + k, size);
            n += 2 * size;
        }
    return x;
}
static Bytes upper(const Bytes &x, int shift) {
    Bytes y;
    for (int k = 0; k < 64; k++) y.at[k] = (uint8_t)(x.at[k] << shift) & 0xF0;
    return y;
}
static void take(const Sums &sums, int32_t *to) { std::memcpy(to, sums.at, 64); }
#elif defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
typedef __m512i Bytes;
typedef __m512i Sums;
static Bytes load_bytes(const void *from) { return _mm512_loadu_si512(from); }
static Sums zeros(int32_t value) { return _mm512_set1_epi32(value); }
static Bytes pick(Bytes places, Bytes from) { return _mm512_permutexvar_epi8(places, from); }
static Bytes spread(int32_t four) { return _mm512_set1_epi32(four); }
static void grow(Sums &sums, Bytes codes, Bytes weights) {
    sums = _mm512_dpbusd_epi32(sums, codes, weights);
}
static inline Bytes interleaved(Bytes u, Bytes v, int half, int size) {
    if (size == 1) return half ? _mm512_unpackhi_epi8(u, v) : _mm512_unpacklo_epi8(u, v);
    return half ? _mm512_unpackhi_epi16(u, v) : _mm512_unpacklo_epi16(u, v);
}
static inline Bytes upper(Bytes x, int shift) {
    Bytes moved = shift ? _mm512_slli_epi32(x, 4) : x;
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)0xF0));
}
static void take(Sums sums, int32_t *to) { _mm512_storeu_si512(to, sums); }
#define QUADS
#endif

#if defined(PLAIN) || defined(QUADS)
// Sixteen rows x 4 entries in a window of 64 features, one sample
extern "C" void quad_windows(const Layer *layer, const float *y, float *out) {
    const Layer &w = *layer;
    std::vector<uint8_t> memory(w.in + 192);
    uint8_t *codes = aligned(memory);
    write_codes(w, y, w.in, codes);
    const uint8_t *weights = (const uint8_t *)w.weights;
    for (int64_t group = 0; group < w.groups; group++) {
        Sums sums[2] = {zeros(0), zeros(0)};
        for (int64_t pair = w.table[group]; pair < w.table[group + 1]; pair++)
            for (int k = 0; k < 2; k++) {
                int64_t s = 2 * pair + k;
                Bytes picked = pick(load_bytes(w.places + 64 * s), load_bytes(codes + w.columns[s]));
                Bytes weight = w.nibbles ? upper(load_bytes(weights + 64 * pair), k ? 0 : 4)
                                         : load_bytes(weights + 64 * s);
                grow(sums[k], picked, weight);
            }
        int32_t halves[2][ROWS], total[ROWS];
        for (int k = 0; k < 2; k++) take(sums[k], halves[k]);
        for (int r = 0; r < ROWS; r++) {
            total[r] = halves[0][r] + halves[1][r];
            if (w.nibbles) total[r] >>= 4;
        }
        finish(w, group, total, out);
    }
}

// 64 samples: four entries of a row at a time
extern "C" void quads(const Layer *layer, const float *y, float *out) {
    const Layer &w = *layer;
    std::vector<uint8_t> memory(64 * w.in + 64);
    uint8_t *codes = aligned(memory);
    write_codes(w, y, 64 * w.in, codes);
    const uint8_t *weights = (const uint8_t *)w.weights;
    for (int64_t row = 0; row < w.out; row++) {
        Sums sums[4] = {zeros(0), zeros(0), zeros(0), zeros(0)};
        for (int64_t quad = w.table[row]; quad < w.table[row + 1]; quad++) {
            int32_t four;
            std::memcpy(&four, weights + 4 * quad, 4);
            Bytes lines[4], weight = spread(four);
            for (int k = 0; k < 4; k++)
                lines[k] = load_bytes(codes + 8 * (int64_t)w.columns[4 * quad + k]);
            for (int half = 0; half < 2; half++) {
                Bytes a = interleaved(lines[0], lines[1], half, 1);
                Bytes b = interleaved(lines[2], lines[3], half, 1);
                grow(sums[2 * half], interleaved(a, b, 0, 2), weight);
                grow(sums[2 * half + 1], interleaved(a, b, 1, 2), weight);
            }
        }
        // sum k has, of each 16 samples, those from 4 k on
        int32_t found[4][16];
        for (int k = 0; k < 4; k++) take(sums[k], found[k]);
        for (int block = 0; block < 4; block++)
            for (int k = 0; k < 4; k++)
                for (int j = 0; j < 4; j++) {
                    float value = (float)(w.constants[row] + found[k][4 * block + j]);
                    value = w.scales[row] * value + w.bias[row];
                    out[64 * row + 16 * block + 4 * k + j] = std::max(value, 0.0f);
                }
    }
}
#endif
