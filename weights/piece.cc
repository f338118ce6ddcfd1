#include "weights/piece.h"

namespace atl::weights {
namespace {

void Place(std::span<const PieceMatrix> matrices, const PackedCache::Memory& memory) {
  int64_t offset = 0;  // panels are multiples of 64 bytes: every matrix begins where one may
  for (const PieceMatrix& matrix : matrices) {
    *matrix.out = kernels::PackedMatrix(matrix.format, matrix.n, matrix.k, memory, offset);
    offset += matrix.out->bytes();
  }
}

}  // namespace

Status LoadPiece(PackedCache* cache, const std::string& name, std::span<const PieceMatrix> matrices,
                 ThreadPool* pool, absl::FunctionRef<Status()> fill) {
  PieceId piece{.name = name};
  for (const PieceMatrix& matrix : matrices) {
    absl::StrAppendFormat(&piece.contents, "%s %s [%d, %d]\n", matrix.name,
                          kernels::WeightFormatName(matrix.format), matrix.n, matrix.k);
    piece.bytes += kernels::PackedMatrix::Bytes(matrix.format, matrix.n, matrix.k);
  }
  ATL_ASSIGN_OR_RETURN(const PackedCache::Memory memory,
                       LoadMemory(cache, piece, pool, [&](const PackedCache::Memory& made) {
                         Place(matrices, made);
                         return fill();
                       }));
  Place(matrices, memory);
  return absl::OkStatus();
}

}  // namespace atl::weights
