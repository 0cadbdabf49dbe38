// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/script_runs.h"

#include <string_view>

namespace nfloat {
namespace {

// ISO 15924 codes of Unicode 14's scripts but those of kHan and Common: the frequent ones first.
constexpr std::string_view kScripts =
    "Latn Cyrl Grek Arab Hang Deva Hebr Thai Zinh Beng Taml Telu Knda Mlym Gujr Guru Orya Sinh Armn Geor "
    "Ethi Khmr "
    "Laoo Mymr Tibt Mong Bopo Adlm Aghb Ahom Armi Avst Bali Bamu Bass Batk Bhks Brah Brai Bugi Buhd Cakm "
    "Cans Cari "
    "Cham Cher Chrs Copt Cpmn Cprt Diak Dogr Dsrt Dupl Egyp Elba Elym Glag Gong Gonm Goth Gran Hano Hatr "
    "Hluw Hmng "
    "Hmnp Hung Ital Java Kali Khar Khoj Kits Kthi Lana Lepc Limb Lina Linb Lisu Lyci Lydi Mahj Maka Mand "
    "Mani Marc "
    "Medf Mend Merc Mero Modi Mroo Mtei Mult Nand Narb Nbat Newa Nkoo Nshu Ogam Olck Orkh Osge Osma Ougr "
    "Palm Pauc "
    "Perm Phag Phli Phlp Phnx Plrd Prti Rjng Rohg Runr Samr Sarb Saur Sgnw Shaw Shrd Sidd Sind Sogd Sogo "
    "Sora Soyo "
    "Sund Sylo Syrc Tagb Takr Tale Talu Tang Tavt Tfng Tglg Thaa Tirh Tnsa Toto Ugar Vaii Vith Wara Wcho "
    "Xpeo Xsux "
    "Yezi Yiii Zanb";
constexpr std::string_view kHan = R"(\p{sc:Hani}\p{sc:Hira}\p{sc:Kana}\x{30FC})";
constexpr std::string_view kJoins = R"( \p{sc:Zzzz})";  // go on with any script

void add_run(std::string& expression, std::string_view members) {
  expression.append("[").append(members).append("][").append(members).append(kJoins).append("]*+|");
}

}  // namespace

std::string script_runs_expression() {
  std::string expression = "(?! )(?:";
  add_run(expression, kHan);
  for (size_t at = 0; at < kScripts.size(); at += 5)
    add_run(expression, std::string(R"(\p{sc:)").append(kScripts.substr(at, 4)).append("}"));
  return expression + R"(\p{sc:Zyyy}(?:(?!\x{30FC})[\p{sc:Zyyy}\p{sc:Zzzz}])*+))";
}

}  // namespace nfloat
